//! Splits: a function of seed and image alone.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, run_whole, text_column};
use crate::fixtures::{SEED, prepared};
use crate::stage::Map;

fn stage(held_out: f64, seed: u64) -> Map<Split> {
    Map(Split::new(SplitConfig { held_out }, seed))
}

#[derive(Serialize)]
struct Id {
    image_id: ImageId,
}

fn splits(held_out: f64, seed: u64, images: impl Iterator<Item = u32>) -> Vec<String> {
    let fields = vec![columns::prepared_sample().field_with_name(columns::IMAGE_ID).unwrap().clone()];
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
    let ids: Vec<Id> = images.map(|image| Id { image_id: ImageId::of(&image.to_le_bytes()) }).collect();
    text_column(&run_whole(stage(held_out, seed), &rows::write(&schema, &ids).unwrap()), columns::SPLIT)
}

#[test]
fn split_keeps_the_contract() {
    let out = check_stage(|| stage(0.25, SEED), &prepared());
    let (images, splits) = (text_column(&out, columns::IMAGE_ID), text_column(&out, columns::SPLIT));
    for (image, split) in images.iter().zip(&splits) {
        let of_twins = images.iter().zip(&splits).filter(|(other, _)| *other == image).all(|(_, other)| other == split);
        assert!(of_twins, "samples of one image are on one side");
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn split_does_not_depend_on_cuts(case in rows_and_cuts(prepared().num_rows())) {
        cuts_do_not_matter(|| stage(0.25, SEED), &prepared(), &case)?;
    }
}

#[test]
fn split_schema() {
    insta::assert_snapshot!(output_table(&stage(0.25, SEED), &prepared().schema()));
}

#[test]
fn the_held_out_share_is_what_was_asked_for() {
    for share in [0.0, 0.05, 0.3] {
        let held_out = splits(share, 1, 0..10_000).iter().filter(|split| *split == "held_out").count() as f64;
        assert!((held_out / 10_000.0 - share).abs() < 0.01, "{held_out} of 10,000 for {share}");
    }
}

#[test]
fn other_images_and_a_larger_share_move_nobody_back() {
    let few = splits(0.1, 1, 0..100);
    assert_eq!(few, splits(0.1, 1, 0..1000)[..100], "further images change nothing");
    let more = splits(0.2, 1, 0..100);
    assert!(few.iter().zip(&more).all(|(few, more)| few == more || more == "held_out"));
    assert_ne!(few, splits(0.1, 2, 0..100), "another seed does");
}

#[test]
fn shares_out_of_range_are_named() {
    assert!(SplitConfig::default().problems().is_empty());
    for held_out in [-0.1, 1.0, f64::NAN] {
        assert!(SplitConfig { held_out }.problems()[0].starts_with("split.held_out"));
    }
}
