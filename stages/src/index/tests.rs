//! Only elected train samples enter the bank, and search finds what a plain loop finds.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use cm3flow_schemas::random::Draws;
use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, check_stage, cuts_do_not_matter, output_table, rows_and_cuts, run_whole, text_column};
use crate::fixtures::settled;
use crate::stage::Map;

fn stage() -> Map<Index> {
    Map(Index)
}

/// Bank rows with embeddings drawn from `seed`, ids counted from `first`.
fn bank_rows(first: u16, count: u16, seed: u64) -> RecordBatch {
    let row = |number: u16| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let mut draws = Draws::new(seed, "test", &id);
        let mut embedding: Vec<f32> = (0..20).map(|_| draws.unit() as f32 - 0.5).collect();
        crate::embed::normalize(&mut embedding);
        Out {
            sample_id: SampleId(id),
            image_id: ImageId(id),
            captions: vec![format!("caption {number}")],
            codes: vec![u32::from(number)],
            embedding,
        }
    };
    rows::write(&columns::bank_sample(), &(first..first + count).map(row).collect::<Vec<_>>()).unwrap()
}

fn ids(bank: &Bank) -> BTreeSet<u16> {
    bank.rows().iter().map(|row| u16::from_be_bytes([row.sample_id.0[0], row.sample_id.0[1]])).collect()
}

#[test]
fn index_keeps_the_contract() {
    let out = check_stage(stage, &settled());
    let wanted: Vec<String> = {
        let settled = settled();
        let duplicate = settled.column_by_name(columns::DUPLICATE_OF).unwrap();
        let (ids, splits) = (text_column(&settled, columns::SAMPLE_ID), text_column(&settled, columns::SPLIT));
        ids.into_iter()
            .zip(splits)
            .enumerate()
            .filter(|(row, (_, split))| split == "train" && duplicate.is_null(*row))
            .map(|(_, (id, _))| id)
            .collect()
    };
    assert!(text_column(&settled(), columns::SPLIT).contains(&"held_out".to_owned()), "the fixture has held-out samples to leave out");
    assert_eq!(text_column(&out, columns::SAMPLE_ID), wanted);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn index_does_not_depend_on_cuts(case in rows_and_cuts(settled().num_rows())) {
        cuts_do_not_matter(stage, &settled(), &case)?;
    }

    #[test]
    fn search_finds_what_a_plain_loop_finds(seed in any::<u64>(), count in 0_usize..40) {
        let bank = Bank::from_windows(&[vec![bank_rows(0, 30, seed)]], 100, 1).unwrap();
        let query = bank.rows()[7].embedding.clone();
        let plain = |row: &BankRow| row.embedding.iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let mut expected: Vec<f64> = bank.rows().iter().map(plain).collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        let hits = bank.search(&query, count);
        prop_assert_eq!(hits.len(), count.min(30));
        for (hit, expected) in hits.iter().zip(expected) {
            prop_assert!((f64::from(hit.similarity) - expected).abs() < 1e-5);
            prop_assert!((plain(&bank.rows()[hit.row]) - expected).abs() < 1e-5);
        }
    }
}

#[test]
fn index_schema() {
    insta::assert_snapshot!(output_table(&stage(), &settled().schema()));
}

#[test]
fn a_row_of_the_bank_has_the_main_image_and_the_embedding_of_the_pair() {
    let out = run_whole(stage(), &settled());
    let bank = Bank::from_windows(&[vec![out]], 100, 1).unwrap();
    for row in bank.rows() {
        assert_eq!(row.codes.len(), 16, "codes of one image");
        assert!((dot(&row.embedding, &row.embedding) - 1.0).abs() < 1e-5);
        assert!(!row.captions.is_empty());
    }
}

#[test]
fn a_pair_is_the_normalised_average_of_what_it_has() {
    assert_eq!(pair_embedding(&[1.0, 0.0], &[1.0, 0.0]), [1.0, 0.0]);
    let half = std::f32::consts::FRAC_1_SQRT_2;
    assert_eq!(pair_embedding(&[1.0, 0.0], &[0.0, 1.0]), [half, half]);
    assert_eq!(pair_embedding(&[], &[0.0, 1.0]), [0.0, 1.0]);
    assert_eq!(pair_embedding(&[1.0, 0.0], &[]), [1.0, 0.0]);
    assert_eq!(pair_embedding(&[0.0, 0.0], &[0.0, 0.0]), [0.0, 0.0]);
}

#[test]
fn equally_similar_rows_come_by_id() {
    let mut rows: Vec<RecordBatch> = Vec::new();
    for id in [3_u8, 1, 2] {
        let row =
            Out { sample_id: SampleId([id; 16]), image_id: ImageId([id; 16]), captions: vec![], codes: vec![], embedding: vec![1.0, 0.0] };
        rows.push(rows::write(&columns::bank_sample(), &[row]).unwrap());
    }
    let bank = Bank::from_windows(&[rows], 10, 1).unwrap();
    let found: Vec<u8> = bank.search(&[1.0, 0.0], 2).iter().map(|hit| bank.rows()[hit.row].sample_id.0[0]).collect();
    assert_eq!(found, [1, 2]);
}

#[test]
fn the_bank_keeps_the_newest_windows_and_a_sample_of_the_one_before() {
    let windows = [vec![bank_rows(0, 10, 1)], vec![bank_rows(100, 10, 1)], vec![bank_rows(200, 10, 1)]];
    let bank = |max, seed| ids(&Bank::from_windows(&windows, max, seed).unwrap());
    assert_eq!(bank(30, 1).len(), 30);
    let bounded = bank(14, 1);
    assert_eq!((bounded.len(), bounded.range(200..).count(), bounded.range(100..200).count()), (14, 10, 4));
    assert_eq!(bounded, bank(14, 1));
    assert!((2..10).any(|seed| bank(14, seed) != bounded), "which rows stay is drawn from the seed");
    assert_eq!(bank(10, 1), (200..210).collect());
    assert!(ids(&Bank::from_windows(&[], 10, 1).unwrap()).is_empty());
}

#[test]
fn cuts_of_a_window_do_not_change_who_stays() {
    let whole = bank_rows(0, 20, 1);
    let cut = vec![whole.slice(0, 3), whole.slice(3, 0), whole.slice(3, 17)];
    assert_eq!(ids(&Bank::from_windows(&[vec![whole]], 7, 1).unwrap()), ids(&Bank::from_windows(&[cut], 7, 1).unwrap()));
}
