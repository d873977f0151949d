//! Embeddings: unit length, similarity of texts and images, independence of the rest of the batch.

#![allow(clippy::unwrap_used)]

use cm3flow_schemas::Grid;
use cm3flow_schemas::traits::ImageTokenizer;
use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, run};
use crate::fixtures::{CODES, SIDE, embedder, embedder_owner, patch_tokenizer, picture, tokenized};
use crate::index::dot;
use crate::stage::Map;

fn stage() -> Map<Embed> {
    Map(Embed::new(embedder_owner()))
}

#[derive(Deserialize)]
struct Embedded {
    text_embedding: Vec<f32>,
    image_embedding: Vec<f32>,
    refusal: Option<Refusal>,
}

fn is_unit(vector: &[f32]) -> bool {
    (vector.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5
}

#[test]
fn embed_keeps_the_contract() {
    let out = check_stage(stage, &tokenized());
    let rows: Vec<Embedded> = rows::read(&out, &[columns::TEXT_EMBEDDING, columns::IMAGE_EMBEDDING, columns::REFUSAL]).unwrap();
    for row in rows {
        if row.refusal.is_some() {
            assert!(row.text_embedding.is_empty() && row.image_embedding.is_empty());
        } else {
            assert_eq!((row.text_embedding.len(), row.image_embedding.len()), (embedder().dimension(), embedder().dimension()));
            assert!(is_unit(&row.text_embedding) && is_unit(&row.image_embedding));
        }
    }
    assert!(out.column_by_name(columns::PIXELS).is_none(), "pixels end here");
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn embed_does_not_depend_on_cuts(case in rows_and_cuts(tokenized().num_rows())) {
        cuts_do_not_matter(stage, &tokenized(), &case)?;
    }
}

#[test]
fn embed_schema() {
    insta::assert_snapshot!(output_table(&stage(), &tokenized().schema()));
}

#[test]
fn likeness_of_texts_follows_their_letters() {
    let texts = ["a green boat on a lake", "two green boats on the lakes", "an old clock tower", "", "  "];
    let embedded = embedder().embed_texts(&texts).unwrap();
    let rows: Vec<&[f32]> = embedded.chunks_exact(embedder().dimension()).collect();
    assert!((dot(rows[0], rows[0]) - 1.0).abs() < 1e-5);
    assert!(dot(rows[0], rows[1]) > dot(rows[0], rows[2]) + 0.2, "{} and {}", dot(rows[0], rows[1]), dot(rows[0], rows[2]));
    assert!(rows[3].iter().chain(rows[4]).all(|value| *value == 0.0), "an empty text is zero");
}

#[test]
fn texts_and_images_share_no_coordinate() {
    let image = picture(1, SIDE, SIDE).into_raw();
    let codes = patch_tokenizer().encode(&image).unwrap();
    let text = embedder().embed_texts(&["a red kite"]).unwrap();
    let image = embedder().embed_images(&[ImageView { codes: &codes, pixels: &image, grid: None }]).unwrap();
    assert!(dot(&text, &image) == 0.0);
}

#[test]
fn likeness_of_images_follows_their_colours() {
    let embed = |picture: image::RgbImage| {
        let codes = patch_tokenizer().encode(picture.as_raw()).unwrap();
        embedder().embed_images(&[ImageView { codes: &codes, pixels: picture.as_raw(), grid: None }]).unwrap()
    };
    let mut nearly = picture(1, SIDE, SIDE);
    nearly.put_pixel(0, 0, image::Rgb([0, 0, 0]));
    let (one, near, other) = (embed(picture(1, SIDE, SIDE)), embed(nearly), embed(picture(5, SIDE, SIDE)));
    assert!(dot(&one, &near) > 0.98, "{}", dot(&one, &near));
    assert!(dot(&one, &other) < 0.9, "{}", dot(&one, &other));
}

#[test]
fn images_of_a_tokenizer_without_codebook_have_their_colours_alone() {
    let table = IdfTable::fit(&EmbedConfig::default(), []);
    let text_buckets = EmbedConfig::default().text_buckets as usize;
    let mut colours = NgramColourEmbedder::new(table, &[], 0, SIDE as usize);
    assert_eq!(
        (colours.name(), colours.dimension()),
        ("hashed character n-grams, and colour layout or hashed codes", text_buckets + 4 * 4 * 3)
    );
    let pictures = [picture(1, SIDE, SIDE).into_raw(), picture(1, SIDE, SIDE).into_raw(), picture(5, SIDE, SIDE).into_raw()];
    let views = [ImageView { codes: &[3], pixels: &pictures[0], grid: None }, ImageView { codes: &[7], pixels: &pictures[1], grid: None }];
    let views = [views[0], views[1], ImageView { codes: &[3], pixels: &pictures[2], grid: None }];
    let embedded = colours.embed_images(&views).unwrap();
    let rows: Vec<&[f32]> = embedded.chunks_exact(colours.dimension()).collect();
    assert!(rows.iter().all(|row| is_unit(row)));
    assert!(rows[0] == rows[1] && rows[0] != rows[2]);
}

/// Pictures narrower than four pixels or with sides that four does not divide: the last cells take the rest.
#[test]
fn a_colour_counts_in_the_cell_that_it_lies_in() {
    let mut colours = NgramColourEmbedder::new(IdfTable::fit(&EmbedConfig::default(), []), &[], 0, SIDE as usize);
    for (columns, rows) in [(4, 4), (7, 10), (10, 7), (13, 5), (3, 2), (1, 9)] {
        let pixels: Vec<u8> = (0..columns * rows * 3).map(|place| (place * 37 % 251) as u8).collect();
        let grid = Grid { rows: rows as u32, columns: columns as u32 };
        let cell = |place: usize, side: usize| (place / (side / 4).max(1)).min(3);
        let mut layout = vec![0.0; 4 * 4 * 3];
        for (index, value) in pixels.iter().enumerate() {
            let (x, y) = (index / 3 % columns, index / 3 / columns);
            layout[(cell(y, rows) * 4 + cell(x, columns)) * 3 + index % 3] += f32::from(*value) - 127.5;
        }
        normalize(&mut layout);
        normalize(&mut layout);
        let embedded = colours.embed_images(&[ImageView { codes: &[0], pixels: &pixels, grid: Some(grid) }]).unwrap();
        assert_eq!(embedded[embedded.len() - layout.len()..], layout, "{columns} x {rows}");
    }
}

#[test]
fn a_code_that_the_codebook_lacks_stops_the_stage() {
    let mut small = embedder();
    assert!(small.embed_images(&[ImageView { codes: &[CODES], pixels: &[], grid: None }]).is_err());
    let table = IdfTable::fit(&EmbedConfig::default(), []);
    let one_code = NgramColourEmbedder::new(table, &[0.0; 48], 48, SIDE as usize);
    let owner = Owner::spawn("small", Box::new(one_code) as Box<dyn PairEmbedder>).unwrap();
    let error = run(Map(Embed::new(owner)), vec![tokenized()]).unwrap_err();
    assert!(matches!(error, StageError::Model { stage: NAME, .. }), "{error:?}");
}

#[test]
fn idf_has_known_values_and_survives_its_bytes() {
    // Each text has one n-gram, its three characters; the many buckets avoid collisions.
    let config = EmbedConfig { text_buckets: 65_536, min_ngram: 3, max_ngram: 3 };
    let table = IdfTable::fit(&config, ["x", "x", "x", "y"]);
    let json: serde_json::Value = serde_json::from_slice(&table.to_bytes()).unwrap();
    let mut values: Vec<f64> = json["idf"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    values.sort_by(f64::total_cmp);
    let expected = [(5.0_f64 / 4.0).ln() + 1.0, (5.0_f64 / 2.0).ln() + 1.0, 5.0_f64.ln() + 1.0];
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() < 1e-6, "{value} and {expected}");
    }
    assert_eq!(IdfTable::from_bytes(&table.to_bytes()).unwrap(), table);
    assert!(IdfTable::from_bytes(b"{}").is_err());
    let mut short = json;
    short["idf"] = serde_json::json!([1.0]);
    assert!(matches!(IdfTable::from_bytes(short.to_string().as_bytes()), Err(StageError::Artefact { what: "idf table", .. })));
}

#[test]
fn every_bad_field_is_named_by_its_path() {
    assert!(EmbedConfig::default().problems().is_empty());
    let problems = EmbedConfig { text_buckets: 3, min_ngram: 5, max_ngram: 4 }.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.starts_with("embed.")), "{problems:?}");
}

#[test]
fn images_without_pixels_are_alike_when_they_share_codes() {
    let table = || IdfTable::fit(&EmbedConfig::default(), []);
    let tokenizer = patch_tokenizer();
    let with_codebook = NgramColourEmbedder::new(table(), tokenizer.codebook(), tokenizer.spec().codebook_dim as usize, SIDE as usize);
    for mut embedder in [NgramColourEmbedder::new(table(), &[], 0, SIDE as usize), with_codebook] {
        let codes: [&[u32]; 3] = [&[0, 1, 2, 3, 3, 3], &[0, 1, 2, 3, 3, 4], &[5, 6, 7, 5, 6, 7]];
        let views: Vec<ImageView<'_>> = codes.iter().map(|codes| ImageView { codes, pixels: &[], grid: None }).collect();
        let embedded = embedder.embed_images(&views).unwrap();
        let rows: Vec<&[f32]> = embedded.chunks_exact(embedder.dimension()).collect();
        assert!(rows.iter().all(|row| is_unit(row)));
        assert!(dot(rows[0], rows[1]) > dot(rows[0], rows[2]), "{} and {}", dot(rows[0], rows[1]), dot(rows[0], rows[2]));
    }
}
