//! Independence of cuts for any size of groups, priority of the source's images, refusal of values that are not finite.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::codes::to_file;
use crate::conformance::{cases, check_stage, cut, cuts_do_not_matter, output_table, rows_and_cuts, run, run_whole};
use crate::derive::{Derive, DeriveConfig};
use crate::filter::Filter;
use crate::fixtures::{
    Negatives, Raw, SEED, SIDE, annotate, bucketed_preparation, derived, filter_config, picture, png, preparation, raw_batch,
};
use crate::stage::Map;

#[derive(Deserialize)]
struct Sent {
    key: String,
    pixels: Vec<RoleImage>,
    given_codes: Vec<RoleImage>,
    refusal: Option<Refusal>,
}

impl Sent {
    fn roles(&self) -> Vec<&str> {
        self.pixels.iter().map(|image| image.role.as_str()).collect()
    }
}

fn read(batch: &RecordBatch) -> Vec<Sent> {
    rows::read(batch, &[columns::KEY, columns::PIXELS, columns::GIVEN_CODES, columns::REFUSAL]).unwrap()
}

/// Returns `samples` as `derive` sends them, without edges.
fn derived_of(samples: &[Raw]) -> RecordBatch {
    let filtered = run_whole(Map(Filter::new(filter_config())), &raw_batch(samples));
    let config = DeriveConfig { edges: false, ..DeriveConfig::default() };
    run_whole(Map(Derive::new(config, preparation(), SEED)), &filtered)
}

fn of_role(role: &str) -> Annotate {
    Annotate::new(vec![Negatives::new(SIDE, 2, 0).annotator(role)], SIDE)
}

#[test]
fn annotate_keeps_the_contract() {
    let out = read(&check_stage(annotate, &derived()));
    let kept = out.iter().filter(|row| row.refusal.is_none());
    assert!(kept.clone().count() > 3, "{} rows prove nothing", kept.count());
    for row in kept {
        assert!(row.roles().ends_with(&["depth", "hed"]), "{}: {:?}", row.key, row.roles());
        assert!(row.pixels.iter().all(|image| image.bytes.len() == (SIDE * SIDE * 3) as usize));
    }
    let refused: Vec<&Sent> = out.iter().filter(|row| row.refusal.as_ref().is_some_and(|refusal| refusal.stage == NAME)).collect();
    assert!(!refused.is_empty(), "rule 4 needs a row that cannot be annotated");
    for row in refused {
        assert_eq!(row.refusal, Some(Refusal::new(NAME, "not_finite", "image hed: 1 of 1728 values are not finite")), "{}", row.key);
        assert!(row.pixels.is_empty(), "{}", row.key);
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn annotate_does_not_depend_on_cuts(case in rows_and_cuts(derived().num_rows()), first in 1_u32..6, second in 1_u32..6) {
        let stage = || Annotate::new(vec![Negatives::new(SIDE, first, 0).annotator("depth"), Negatives::new(24, second, 20).annotator("hed")], SIDE);
        cuts_do_not_matter(stage, &derived(), &case)?;
    }
}

#[test]
fn annotate_schema() {
    insta::assert_snapshot!(output_table(&annotate(), &derived().schema()));
}

#[test]
fn annotations_have_the_shape_of_their_image() {
    let samples: Vec<Raw> = [(64, 32), (32, 32), (32, 96)]
        .map(|(width, height)| Raw::new(&format!("{width}"), png(&picture(1, width, height)), &["a picture"]))
        .into();
    let filtered = run_whole(Map(Filter::new(filter_config())), &raw_batch(&samples));
    let config = DeriveConfig { edges: false, ..DeriveConfig::default() };
    let derived = run_whole(Map(Derive::new(config, bucketed_preparation(), SEED)), &filtered);
    let rows = read(&run_whole(of_role("depth"), &derived));
    assert!(rows.iter().all(|row| row.refusal.is_none()), "{:?}", rows.iter().map(|row| &row.refusal).collect::<Vec<_>>());
    for row in rows {
        let [main, depth] = &row.pixels[..] else { panic!("{:?}", row.roles()) };
        assert_eq!((main.role.as_str(), depth.role.as_str(), depth.bytes.len()), ("main", "depth", main.bytes.len()), "{}", row.key);
    }
}

#[test]
fn each_row_has_the_annotation_of_its_own_main_image() {
    let samples: Vec<Raw> = (0..7).map(|kind| Raw::new(&format!("{kind}"), png(&picture(kind, SIDE, SIDE)), &["a picture"])).collect();
    for (row, kind) in read(&run_whole(of_role("depth"), &derived_of(&samples))).iter().zip(0..) {
        let main = picture(kind, SIDE, SIDE);
        let quarter = RgbImage::from_fn(SIDE / 4, SIDE / 4, |x, y| image::Rgb(main.get_pixel(4 * x, 4 * y).0.map(|level| 255 - level)));
        assert_eq!(row.roles(), [MAIN_IMAGE, "depth"]);
        assert!(row.pixels[1].bytes == lanczos(&quarter, SIDE, SIDE).into_raw(), "{kind}");
    }
}

#[test]
fn all_groups_but_the_last_are_whole_whatever_the_cuts() {
    for sizes in [vec![100], vec![1; 17], vec![3, 0, 5]] {
        let negatives = Negatives::new(SIDE, 4, 0);
        let calls = Arc::clone(&negatives.calls);
        run(Annotate::new(vec![negatives.annotator("depth")], SIDE), cut(&derived(), &sizes)).unwrap();
        let calls = calls.lock().unwrap().clone();
        let (last, whole) = calls.split_last().unwrap();
        assert!(whole.iter().all(|pictures| pictures % 4 == 0), "{calls:?}");
        assert_eq!(whole.iter().sum::<usize>() + last, 13, "{calls:?}");
    }
}

#[test]
fn an_image_that_the_source_brings_wins_and_given_codes_too() {
    let main = || png(&picture(1, SIDE, SIDE));
    let samples = [
        Raw::new("brings", main(), &["a picture"]).with_image("depth", png(&picture(2, SIDE, SIDE))),
        Raw::new("codes", main(), &["its codes"]).with_image("depth", to_file(&[1; 16])),
        Raw::new("given", to_file(&[1; 16]), &["all codes"]),
        Raw::new("lacks", main(), &["a picture more"]),
    ];
    let rows = read(&run_whole(of_role("depth"), &derived_of(&samples)));
    assert_eq!(rows[0].roles(), [MAIN_IMAGE, "depth"]);
    assert!(rows[0].pixels[1].bytes == picture(2, SIDE, SIDE).into_raw());
    assert_eq!((rows[1].roles(), rows[1].given_codes.len()), (vec![MAIN_IMAGE], 1));
    assert_eq!((rows[2].roles(), rows[2].given_codes.len()), (vec![], 1), "there are no pixels to look at");
    assert_eq!(rows[3].roles(), [MAIN_IMAGE, "depth"]);
}

#[test]
fn an_annotator_that_fails_or_lacks_pictures_stops_the_stage() {
    struct Broken(ImageAnnotatorSpec, Option<usize>);
    impl ImageAnnotator for Broken {
        fn spec(&self) -> &ImageAnnotatorSpec {
            &self.0
        }
        fn annotate(&mut self, _: &[u8]) -> Result<Vec<Annotation>, DynError> {
            let picture = Ok(AnnotatedImage { side_px: 2, pixels: vec![0; 11] });
            self.1.map(|count| vec![picture; count]).ok_or_else(|| "out of memory".into())
        }
    }
    let spec = || Negatives::new(SIDE, 100, 0).spec().clone();
    let problem = |broken: Broken| {
        let owner = Owner::spawn("broken", Box::new(broken) as Box<dyn ImageAnnotator>).unwrap();
        let error = run(Annotate::new(vec![Annotator { role: "depth".into(), owner, spec: spec() }], SIDE), vec![derived()]).unwrap_err();
        let StageError::Model { stage: NAME, component: "image annotator", source } = error else { panic!("{error:?}") };
        source.to_string()
    };
    assert_eq!(problem(Broken(spec(), None)), "out of memory");
    assert_eq!(problem(Broken(spec(), Some(12))), "the annotator of depth made 12 pictures of 13");
    assert_eq!(problem(Broken(spec(), Some(13))), "the annotator of depth: its picture has 11 bytes, one of 2x2 pixels has 12");
    let error = run(Annotate::new(vec![Negatives::new(SIDE, 2, 0).annotator("depth")], SIDE * 2), vec![derived()]).unwrap_err();
    assert!(matches!(error, StageError::Model { stage: NAME, .. }), "pixels of another size: {error:?}");
}
