//! Election of one of equal samples, in any order of the rows.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cm3flow_schemas::random::Draws;
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::{ImageId, SampleId};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, rows_of, run_whole};
use crate::fixtures::{no_earlier, split};

fn stage(by: DedupKey) -> Dedup {
    Dedup::new(DedupConfig { by }, no_earlier())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    sample_id: SampleId,
    image_id: ImageId,
    split: Split,
}

#[derive(Debug, Deserialize)]
struct Elected {
    sample_id: SampleId,
    duplicate_of: Option<SampleId>,
}

fn row(sample: u8, image: u8, split: Split) -> Row {
    Row { sample_id: SampleId([sample; 16]), image_id: ImageId([image; 16]), split }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = split_schema();
    rows::write(&schema, rows).unwrap()
}

fn split_schema() -> SchemaRef {
    let indices: Vec<usize> =
        [columns::SAMPLE_ID, columns::IMAGE_ID, columns::SPLIT].iter().map(|name| split().schema().index_of(name).unwrap()).collect();
    std::sync::Arc::new(split().schema().project(&indices).unwrap())
}

fn elect(rows: &[Row], earlier: &[Row], by: DedupKey) -> Vec<Option<u8>> {
    let out = run_whole(Dedup::new(DedupConfig { by }, batch(earlier)), &batch(rows));
    let elected: Vec<Elected> = rows::read(&out, &[columns::SAMPLE_ID, columns::DUPLICATE_OF]).unwrap();
    assert!(elected.iter().zip(rows).all(|(out, row)| out.sample_id == row.sample_id), "order and number of rows are kept");
    elected.into_iter().map(|row| row.duplicate_of.map(|id| id.0[0])).collect()
}

#[test]
fn dedup_keeps_the_contract() {
    let out = check_stage(|| stage(DedupKey::Image), &split());
    let duplicates = rows::read::<Elected>(&out, &[columns::SAMPLE_ID, columns::DUPLICATE_OF])
        .unwrap()
        .iter()
        .filter(|row| row.duplicate_of.is_some())
        .count();
    assert_eq!(duplicates, 2, "the twin and the copy");
    let out = check_stage(|| stage(DedupKey::Sample), &split());
    let duplicates = rows::read::<Elected>(&out, &[columns::SAMPLE_ID, columns::DUPLICATE_OF])
        .unwrap()
        .iter()
        .filter(|row| row.duplicate_of.is_some())
        .count();
    assert_eq!(duplicates, 1, "the copy alone");
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn dedup_does_not_depend_on_cuts(case in rows_and_cuts(split().num_rows())) {
        cuts_do_not_matter(|| stage(DedupKey::Image), &split(), &case)?;
    }

    #[test]
    fn the_elected_do_not_depend_on_the_order(rows in prop::collection::vec((0_u8..12, 0_u8..4, any::<bool>()), 1..40), seed in any::<u64>()) {
        // A sample id determines the image, and an image the split.
        let rows: Vec<Row> = rows.into_iter().map(|(sample, ..)| row(sample, sample % 5, if sample % 5 == 2 { Split::HeldOut } else { Split::Train })).collect();
        let elected = |rows: &[Row]| -> BTreeMap<u8, Vec<Option<u8>>> {
            let mut of: BTreeMap<u8, Vec<Option<u8>>> = BTreeMap::new();
            for (row, duplicate) in rows.iter().zip(elect(rows, &[row(200, 3, Split::Train)], DedupKey::Image)) {
                of.entry(row.sample_id.0[0]).or_default().push(duplicate);
            }
            of.values_mut().for_each(|found| found.sort());
            of
        };
        let mut shuffled = rows.clone();
        Draws::new(seed, "test", b"").shuffle(&mut shuffled);
        prop_assert_eq!(elected(&rows), elected(&shuffled));
    }
}

#[test]
fn dedup_schema() {
    insta::assert_snapshot!(output_table(&stage(DedupKey::Image), &split().schema()));
}

#[test]
fn an_earlier_window_wins_then_held_out_then_the_smallest_id() {
    let rows = [
        row(5, 1, Split::Train),
        row(4, 1, Split::Train),
        row(1, 2, Split::Train),
        row(9, 2, Split::HeldOut),
        row(8, 3, Split::HeldOut),
        row(2, 3, Split::Train),
        row(7, 4, Split::Train),
    ];
    let elected = elect(&rows, &[row(6, 3, Split::Train)], DedupKey::Image);
    assert_eq!(elected, [Some(4), None, Some(9), None, Some(6), Some(6), None]);
}

#[test]
fn a_sample_that_comes_again_is_a_duplicate_of_itself() {
    assert_eq!(elect(&[row(1, 1, Split::Train)], &[row(1, 1, Split::Train)], DedupKey::Image), [Some(1)]);
    assert_eq!(elect(&[row(1, 1, Split::Train), row(1, 1, Split::Train)], &[], DedupKey::Sample), [None, Some(1)]);
}

#[test]
fn samples_of_one_image_stay_when_whole_samples_are_compared() {
    let rows = [row(1, 1, Split::Train), row(2, 1, Split::Train), row(1, 1, Split::Train)];
    assert_eq!(elect(&rows, &[], DedupKey::Sample), [None, None, Some(1)]);
    assert_eq!(elect(&rows, &[], DedupKey::Image), [None, Some(1), Some(1)]);
}

#[test]
fn whoever_stands_for_others_stands_for_itself() {
    let out = run_whole(stage(DedupKey::Image), &rows_of(&split(), &[3, 1, 0, 9, 3, 8, 0, 9, 9]));
    let elected: Vec<Elected> = rows::read(&out, &[columns::SAMPLE_ID, columns::DUPLICATE_OF]).unwrap();
    for duplicate in elected.iter().filter_map(|row| row.duplicate_of) {
        assert_eq!(elected.iter().filter(|row| row.sample_id == duplicate && row.duplicate_of.is_none()).count(), 1);
    }
}
