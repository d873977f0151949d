//! Order of documents: drawn from the seed and their ids, without losses.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, rows_of, run_whole, text_column};
use crate::fixtures::{SEED, masked};

fn order(seed: u64, batch: &RecordBatch) -> Vec<String> {
    text_column(&run_whole(Shuffle::new(seed), batch), columns::DOCUMENT_ID)
}

#[test]
fn shuffle_keeps_the_contract() {
    let out = check_stage(|| Shuffle::new(SEED), &masked());
    let (mut before, mut after) = (text_column(&masked(), columns::DOCUMENT_ID), text_column(&out, columns::DOCUMENT_ID));
    assert_ne!(before, after);
    before.sort();
    after.sort();
    assert_eq!(before, after);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn shuffle_does_not_depend_on_cuts(case in rows_and_cuts(masked().num_rows())) {
        cuts_do_not_matter(|| Shuffle::new(SEED), &masked(), &case)?;
    }
}

#[test]
fn shuffle_schema() {
    insta::assert_snapshot!(output_table(&Shuffle::new(SEED), &masked().schema()));
}

#[test]
fn the_order_depends_on_the_seed_but_not_on_the_order_before() {
    let backwards: Vec<u32> = (0..masked().num_rows() as u32).rev().collect();
    assert_eq!(order(1, &masked()), order(1, &rows_of(&masked(), &backwards)));
    assert_ne!(order(1, &masked()), order(2, &masked()));
}

#[test]
fn rows_stay_whole() {
    let row_of = |batch: &RecordBatch, id: &str| {
        batch.slice(text_column(batch, columns::DOCUMENT_ID).iter().position(|other| other == id).unwrap(), 1)
    };
    let (before, after) = (masked(), run_whole(Shuffle::new(SEED), &masked()));
    for id in text_column(&before, columns::DOCUMENT_ID) {
        assert_eq!(row_of(&before, &id), row_of(&after, &id));
    }
}
