//! Image codes: independence of cuts for any size of groups, and the baseline tokenizer in both directions.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use cm3flow_schemas::conformance::check_image_tokenizer;
use cm3flow_schemas::sample::Edit;
use cm3flow_schemas::{DynError, Grid};
use proptest::prelude::*;

use super::*;
use crate::codes::to_file;
use crate::conformance::{cases, check_stage, cut, cuts_do_not_matter, output_table, rows_and_cuts, run, run_whole};
use crate::derive::{Derive, DeriveConfig};
use crate::filter::Filter;
use crate::fixtures::{
    CODES, PATCH, Raw, SEED, SIDE, bucketed_preparation, derived, filter_config, patch_tokenizer, picture, png, preparation, raw_batch,
    text_tokenizer, tokenizer_owner,
};
use crate::stage::Map;

/// Tokenizer that codes as the baseline, in groups of a fixed size, which it records.
struct Grouped {
    inner: PatchTokenizer,
    spec: ImageTokenizerSpec,
    groups: Arc<Mutex<Vec<usize>>>,
}

impl ImageTokenizer for Grouped {
    fn spec(&self) -> &ImageTokenizerSpec {
        &self.spec
    }

    fn encode_grid(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError> {
        self.groups.lock().unwrap().push(pixels.len() / self.spec.bytes_of(grid));
        self.inner.encode_grid(pixels, grid)
    }

    fn decode_grid(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError> {
        self.inner.decode_grid(codes, grid)
    }

    fn codebook(&self) -> &[f32] {
        self.inner.codebook()
    }
}

fn grouped(batch_size: u32) -> (Tokenize, Arc<Mutex<Vec<usize>>>) {
    let inner = patch_tokenizer();
    let mut spec = inner.spec().clone();
    spec.numerics.batch_size = batch_size;
    let groups = Arc::default();
    let tokenizer: Box<dyn ImageTokenizer> = Box::new(Grouped { inner, spec: spec.clone(), groups: Arc::clone(&groups) });
    (Tokenize::new(Owner::spawn("grouped", tokenizer).unwrap(), spec), groups)
}

fn stage() -> Tokenize {
    Tokenize::new(tokenizer_owner(), patch_tokenizer().spec().clone())
}

#[derive(Deserialize)]
struct Coded {
    pixels: Vec<RoleImage>,
    image_codes: Vec<RoleCodes>,
    refusal: Option<Refusal>,
}

#[test]
fn tokenize_keeps_the_contract() {
    let out = check_stage(stage, &derived());
    let rows: Vec<Coded> = rows::read(&out, &[columns::PIXELS, columns::IMAGE_CODES, columns::REFUSAL]).unwrap();
    let mut tokenizer = patch_tokenizer();
    for row in rows {
        assert_eq!(row.refusal.is_some(), row.image_codes.is_empty());
        for (image, coded) in row.pixels.iter().zip(&row.image_codes) {
            assert_eq!(
                (&image.role, tokenizer.encode(&image.bytes).unwrap()),
                (&coded.role, coded.codes.clone()),
                "each image has its own codes"
            );
        }
    }
}

#[test]
fn tokenize_keeps_the_contract_in_groups() {
    check_stage(|| grouped(4).0, &derived());
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn tokenize_does_not_depend_on_cuts(case in rows_and_cuts(derived().num_rows()), group in 1_u32..6) {
        cuts_do_not_matter(|| grouped(group).0, &derived(), &case)?;
    }
}

#[test]
fn tokenize_schema() {
    insta::assert_snapshot!(output_table(&stage(), &derived().schema()));
}

#[test]
fn all_groups_but_the_last_are_whole_whatever_the_cuts() {
    for sizes in [vec![100], vec![1; 17], vec![3, 0, 5]] {
        let (stage, groups) = grouped(4);
        run(stage, cut(&derived(), &sizes)).unwrap();
        let groups = groups.lock().unwrap().clone();
        let (last, whole) = groups.split_last().unwrap();
        assert!(whole.iter().all(|images| images % 4 == 0), "{groups:?}");
        // 13 samples have a main image and its edges, and one of them an edit.
        assert_eq!(whole.iter().sum::<usize>() + last, 27, "{groups:?}");
    }
}

#[test]
fn pixels_of_another_size_stop_the_stage_instead_of_shifting_codes() {
    let mut spec = patch_tokenizer().spec().clone();
    spec.side_px = SIDE * 2;
    let error = run(Tokenize::new(tokenizer_owner(), spec), vec![derived()]).unwrap_err();
    assert!(matches!(error, StageError::Model { stage: NAME, .. }), "{error:?}");
}

#[test]
fn an_error_of_the_tokenizer_stops_the_stage() {
    struct Broken(PatchTokenizer);
    impl ImageTokenizer for Broken {
        fn spec(&self) -> &ImageTokenizerSpec {
            self.0.spec()
        }
        fn encode_grid(&mut self, _: &[u8], _: Grid) -> Result<Vec<u32>, DynError> {
            Err("out of memory".into())
        }
        fn decode_grid(&mut self, _: &[u32], _: Grid) -> Result<Vec<u8>, DynError> {
            Err("out of memory".into())
        }
        fn codebook(&self) -> &[f32] {
            &[]
        }
    }
    let owner = Owner::spawn("broken", Box::new(Broken(patch_tokenizer())) as Box<dyn ImageTokenizer>).unwrap();
    let error = run(Tokenize::new(owner, patch_tokenizer().spec().clone()), vec![derived()]).unwrap_err();
    assert!(matches!(error, StageError::Model { component: "image tokenizer", .. }), "{error:?}");
}

#[test]
fn image_tokenizers_keep_the_contract() {
    let squares: Vec<u8> = (20..25).flat_map(|kind| picture(kind, SIDE, SIDE).into_raw()).collect();
    check_image_tokenizer(patch_tokenizer, &squares);
    let bytes = patch_tokenizer().to_bytes();
    check_image_tokenizer(|| PatchTokenizer::from_bytes(&bytes, SIDE, PATCH).unwrap(), &squares);
    check_image_tokenizer(|| GivenTokenizer::new(SIDE, SIDE / PATCH, CODES), &[]);
}

#[test]
fn an_image_of_whole_codes_survives_coding_and_decoding() {
    let mut tokenizer = patch_tokenizer();
    let codes: Vec<u32> = (0..(SIDE / PATCH).pow(2)).map(|place| place % CODES).collect();
    let pixels = tokenizer.decode(&codes).unwrap();
    assert_eq!(pixels.len(), (SIDE * SIDE * 3) as usize);
    let again = tokenizer.encode(&pixels).unwrap();
    assert_eq!(tokenizer.decode(&again).unwrap(), pixels);
}

#[test]
fn codes_are_row_major() {
    // Two patches of 2x2 pixels: black and white.
    let mut tokenizer = PatchTokenizer::from_codebook([[0.0; 12], [255.0; 12]].concat(), 4, 2).unwrap();
    let mut pixels = vec![0; 4 * 4 * 3];
    // Patch at the upper right.
    for (x, y) in [(2, 0), (3, 0), (2, 1), (3, 1)] {
        pixels[(y * 4 + x) * 3..][..3].fill(250);
    }
    assert_eq!(tokenizer.encode(&pixels).unwrap(), [0, 1, 0, 0]);
    assert_eq!(tokenizer.decode(&[0, 0, 1, 0]).unwrap()[2 * 4 * 3..][..6], [255; 6]);
}

#[test]
fn the_nearest_code_is_the_nearest() {
    let mut tokenizer = patch_tokenizer();
    let (dim, image) = (tokenizer.spec().codebook_dim as usize, picture(5, SIDE, SIDE).into_raw());
    let patch: Vec<f32> = (0..PATCH)
        .flat_map(|line| image[(line * SIDE * 3) as usize..][..(PATCH * 3) as usize].iter().map(|&value| f32::from(value)))
        .collect();
    let distances: Vec<f64> =
        tokenizer.codebook().chunks_exact(dim).map(|code| code.iter().zip(&patch).map(|(a, b)| f64::from(a - b).powi(2)).sum()).collect();
    let code = tokenizer.encode(&image).unwrap()[0] as usize;
    assert!(distances.iter().all(|distance| distances[code] <= distance + 1.0), "{code} of {distances:?}");
}

#[test]
fn fitting_is_reproducible_and_survives_its_bytes() {
    let images: Vec<u8> = (0..6).flat_map(|kind| picture(kind, SIDE, SIDE).into_raw()).collect();
    let fit = |seed| PatchTokenizer::fit(&images, SIDE, PATCH, CODES, seed).unwrap();
    assert_eq!(fit(1).to_bytes(), fit(1).to_bytes());
    assert_ne!(fit(1).spec().digest, fit(2).spec().digest);
    let restored = PatchTokenizer::from_bytes(&fit(1).to_bytes(), SIDE, PATCH).unwrap();
    assert_eq!(restored.spec(), fit(1).spec());
}

#[test]
fn what_cannot_be_fitted_or_coded_says_why() {
    let image = picture(1, SIDE, SIDE).into_raw();
    for (side, patch, codes) in [(SIDE, 5, 2), (SIDE, 0, 2), (SIDE, PATCH, 0), (SIDE, PATCH, 1000)] {
        assert!(matches!(PatchTokenizer::fit(&image, side, patch, codes, 1), Err(StageError::Artefact { .. })), "{side} {patch} {codes}");
    }
    assert!(PatchTokenizer::from_codebook(vec![0.0; 13], 4, 2).is_err());
    assert!(PatchTokenizer::from_bytes(&[1, 2, 3], SIDE, PATCH).is_err(), "no whole float");
    assert!(PatchTokenizer::from_codebook(vec![0.0; 12], 5, 2).is_err(), "a side that is no multiple of the patch");
    let mut tokenizer = patch_tokenizer();
    assert!(tokenizer.encode(&image[1..]).is_err());
    assert!(tokenizer.decode(&[0; 3]).is_err());
    assert!(tokenizer.decode(&[CODES; 16]).is_err());
}

#[test]
fn odd_text_survives_up_to_canonical_composition() {
    let tokenizer = text_tokenizer();
    for text in [
        "",
        " ",
        "\u{feff}mark",
        "a\u{0}b",
        "\r\n\t",
        "\u{200d}\u{fe0f}",
        "👩\u{200d}🚀",
        "ﷺ",
        "\u{10ffff}",
        "</s><s><pad><unk><eoss>",
        "Ġ Ċ ▁",
    ] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text, "{text:?}");
    }
    let composed = tokenizer.decode(&tokenizer.encode("e\u{301}").unwrap()).unwrap();
    assert_eq!(composed, "é");
}

proptest! {
    #[test]
    fn any_ascii_survives(text in "[ -~]{0,80}") {
        let tokenizer = text_tokenizer();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|id| *id < tokenizer.size()));
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn a_file_that_is_no_tokenizer_is_refused() {
    for json in ["", "{}", "[]", "null", "{\"model\": 1}"] {
        assert!(matches!(TextTokenizer::from_json(json.as_bytes()), Err(StageError::TextTokenizer { .. })), "{json}");
    }
}

/// Makes samples with pictures, with codes, with both, and with invalid codes, as `derive` sends them.
fn partly_given() -> RecordBatch {
    let codes = |first: u32, count: u32| to_file(&(0..count).map(|place| (first + place) % CODES).collect::<Vec<_>>());
    let raw = |key: &str, main| Raw::new(key, main, &["a caption"]);
    let samples = [
        raw("given", codes(3, 16)),
        raw("picture", png(&picture(1, 32, 32))),
        raw("edited", codes(4, 16)).with_image("edit0", png(&picture(2, 32, 32))),
        raw("few", codes(0, 15)),
        raw("high", to_file(&[CODES; 16])),
        raw("broken", codes(0, 16)[..80].to_vec()),
        raw("last", png(&picture(3, 32, 32))).with_image("edit0", codes(5, 16)),
        Raw::new("speechless", png(&picture(4, 32, 32)), &[]),
    ];
    let filtered = run_whole(Map(Filter::new(filter_config())), &raw_batch(&samples));
    let config = DeriveConfig { edges: false, ..DeriveConfig::default() };
    run_whole(Map(Derive::new(config, preparation(), SEED)), &filtered)
}

fn reasons(rows: &[Coded]) -> Vec<Option<&str>> {
    rows.iter().map(|row| row.refusal.as_ref().map(|refusal| refusal.reason.as_str())).collect()
}

#[test]
fn given_codes_stand_beside_those_of_pictures() {
    let out = check_stage(|| grouped(2).0, &partly_given());
    assert!(out.column_by_name(columns::GIVEN_CODES).is_none(), "files of codes end here");
    let rows: Vec<Coded> = rows::read(&out, &[columns::PIXELS, columns::IMAGE_CODES, columns::REFUSAL]).unwrap();
    assert_eq!(
        reasons(&rows),
        [None, None, None, Some("wrong_number_of_codes"), Some("code_out_of_range"), Some("bad_codes"), None, Some("no_caption")]
    );
    let given = |first: u32| (0..16).map(|place| (first + place) % CODES).collect::<Vec<_>>();
    let mut tokenizer = patch_tokenizer();
    for (row, expected) in [(0, vec![("main", given(3))]), (2, vec![("main", given(4))]), (6, vec![("edit0", given(5))])] {
        for (role, codes) in expected {
            let found = rows[row].image_codes.iter().find(|image| image.role == role).unwrap();
            assert_eq!(found.codes, codes, "{role} of row {row}");
        }
    }
    for row in &rows {
        for image in &row.pixels {
            let coded = row.image_codes.iter().find(|coded| coded.role == image.role).unwrap();
            assert_eq!(coded.codes, tokenizer.encode(&image.bytes).unwrap());
        }
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn given_codes_do_not_depend_on_cuts(case in rows_and_cuts(partly_given().num_rows()), group in 1_u32..4) {
        cuts_do_not_matter(|| grouped(group).0, &partly_given(), &case)?;
    }
}

#[test]
fn a_picture_is_refused_where_codes_are_given() {
    let stage = || {
        let tokenizer = GivenTokenizer::new(SIDE, SIDE / PATCH, CODES);
        let spec = tokenizer.spec().clone();
        Tokenize::new(Owner::spawn("given", Box::new(tokenizer) as Box<dyn ImageTokenizer>).unwrap(), spec)
    };
    let out = check_stage(stage, &partly_given());
    let rows: Vec<Coded> = rows::read(&out, &[columns::PIXELS, columns::IMAGE_CODES, columns::REFUSAL]).unwrap();
    let none = Some("no_encoder");
    assert_eq!(
        reasons(&rows),
        [None, none, none, Some("wrong_number_of_codes"), Some("code_out_of_range"), Some("bad_codes"), none, Some("no_caption")]
    );
    assert!(rows[1].refusal.as_ref().unwrap().detail.contains("image main is a picture"), "{:?}", rows[1].refusal);
}

/// Makes pictures of several shapes, edits, and codes, one of them in a grid that no image has.
fn shaped() -> RecordBatch {
    let npy = |rows: usize, columns: usize| {
        let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, {columns}), }}\n");
        let codes = vec![3; rows * columns];
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &codes].concat()
    };
    let of = |kind: u8, width, height| Raw::new("p", png(&picture(kind, width, height)), &["a photo"]);
    let mut samples: Vec<Raw> = [(64, 16), (32, 32), (16, 64), (30, 20), (32, 32), (20, 30), (64, 16), (31, 32), (64, 16), (32, 31)]
        .into_iter()
        .zip(0..)
        .map(|((width, height), kind)| of(kind, width, height))
        .collect();
    let edit = Edit { instruction: "square it".into(), image: "edit0".into() };
    samples[3] = samples[3].clone().with_image("edit0", png(&picture(9, 32, 32))).annotated(|annotations| annotations.edits.push(edit));
    samples.push(Raw::new("codes", npy(8, 2), &["a photo"]));
    samples.push(Raw::new("codes", npy(2, 6), &["a photo"]));
    samples.push(Raw::new("codes", npy(16, 1), &["a photo"]));
    samples.push(Raw::new("refused", npy(8, 2), &["a"]));
    let filtered = run_whole(Map(Filter::new(filter_config())), &raw_batch(&samples));
    run_whole(Map(Derive::new(DeriveConfig::default(), bucketed_preparation(), SEED)), &filtered)
}

#[test]
fn images_of_several_shapes_have_the_codes_of_their_own() {
    #[derive(Deserialize)]
    struct Shaped {
        pixels: Vec<RoleImage>,
        image_codes: Vec<RoleCodes>,
        image_grids: Vec<RoleGrid>,
        refusal: Option<Refusal>,
    }
    for size in [1, 2, 3] {
        let out = check_stage(|| grouped(size).0, &shaped());
        let wanted = [columns::PIXELS, columns::IMAGE_CODES, columns::IMAGE_GRIDS, columns::REFUSAL];
        let rows: Vec<Shaped> = rows::read(&out, &wanted).unwrap();
        let reasons: Vec<_> = rows[10..].iter().map(|row| row.refusal.as_ref().map(|refusal| refusal.reason.as_str())).collect();
        assert_eq!(reasons, [None, Some("wrong_number_of_codes"), Some("wrong_number_of_codes"), Some("caption_too_short")]);
        assert_eq!(RoleGrid::of(&rows[10].image_grids, "main"), Some(Grid { rows: 8, columns: 2 }));
        assert_eq!(rows[10].image_codes[0].codes, [3; 16]);
        let mut tokenizer = patch_tokenizer();
        let mut grids = std::collections::BTreeSet::new();
        for row in &rows[..10] {
            assert_eq!(row.pixels.len(), row.image_codes.len());
            for (image, coded) in row.pixels.iter().zip(&row.image_codes) {
                let grid = RoleGrid::of(&row.image_grids, &image.role).unwrap();
                assert_eq!(coded.codes, tokenizer.encode_grid(&image.bytes, grid).unwrap(), "{} of {grid}", image.role);
                grids.insert(grid);
            }
        }
        assert_eq!(grids.len(), 5, "there are images of every shape");
    }
}

#[test]
fn a_patch_of_a_shape_stands_where_it_was_cut() {
    let mut tokenizer = patch_tokenizer();
    for grid in [Grid { rows: 2, columns: 8 }, Grid { rows: 8, columns: 2 }, Grid { rows: 3, columns: 5 }] {
        let codes: Vec<u32> = (0..grid.codes() as u32).map(|place| place % CODES).collect();
        let pixels = tokenizer.decode_grid(&codes, grid).unwrap();
        assert_eq!(pixels.len(), tokenizer.spec().bytes_of(grid));
        assert_eq!(tokenizer.encode_grid(&pixels, grid).unwrap(), codes, "{grid}");
    }
    assert!(tokenizer.encode_grid(&[0; 100], Grid { rows: 0, columns: 1 }).is_err());
    assert!(tokenizer.decode_grid(&[0; 15], Grid { rows: 2, columns: 8 }).is_err());
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn codes_of_shapes_do_not_depend_on_cuts(case in rows_and_cuts(shaped().num_rows()), group in 1_u32..6) {
        cuts_do_not_matter(|| grouped(group).0, &shaped(), &case)?;
    }
}
