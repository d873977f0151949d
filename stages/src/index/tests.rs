//! Bank: only elected train samples enter, and search agrees with a plain loop.

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

/// Makes bank rows with embeddings drawn from `seed`, and ids from `first` on.
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
            grid: None,
        }
    };
    rows::write(&columns::bank_sample(), &(first..first + count).map(row).collect::<Vec<_>>()).unwrap()
}

fn ids(bank: &Bank) -> BTreeSet<u16> {
    let id = |row| bank.sample_id(row).0;
    (0..bank.len()).map(|row| u16::from_be_bytes([id(row)[0], id(row)[1]])).collect()
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
        let bank = Bank::try_new(&[bank_rows(0, 11, seed), bank_rows(11, 19, seed)]).unwrap();
        let query = bank.embedding(7).to_vec();
        let plain = |row: usize| bank.embedding(row).iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let mut expected: Vec<f64> = (0..bank.len()).map(plain).collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        let hits = bank.search(&query, count);
        prop_assert_eq!(hits.len(), count.min(30));
        for (hit, expected) in hits.iter().zip(expected) {
            prop_assert!((f64::from(hit.similarity) - expected).abs() < 1e-5);
            prop_assert!((plain(hit.row) - expected).abs() < 1e-5);
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
    let bank = Bank::try_new(&[out]).unwrap();
    for row in 0..bank.len() {
        assert_eq!(bank.codes(row).len(), 16, "codes of one image");
        assert!((bank.similarity(row, row) - 1.0).abs() < 1e-5);
        assert!(bank.has_both(row) && !bank.caption(row, 0).is_empty());
        assert_eq!(bank.row_of(bank.sample_id(row)), Some(row));
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
        let row = Out {
            sample_id: SampleId([id; 16]),
            image_id: ImageId([id; 16]),
            captions: vec![],
            codes: vec![],
            embedding: vec![1.0, 0.0],
            grid: None,
        };
        rows.push(rows::write(&columns::bank_sample(), &[row]).unwrap());
    }
    let bank = Bank::try_new(&rows).unwrap();
    let found: Vec<u8> = bank.search(&[1.0, 0.0], 2).iter().map(|hit| bank.sample_id(hit.row).0[0]).collect();
    assert_eq!(found, [1, 2]);
}

/// Makes windows of ten rows whose ids begin at 0, 100, 200 and so on.
fn windows(count: u16) -> Vec<RecordBatch> {
    (0..count).map(|window| by_place(&[bank_rows(100 * window, 4, 1), bank_rows(100 * window + 4, 6, 1)], 1).unwrap()).collect()
}

/// Grows a bank by `windows` one after another, cut into batches of `cut` rows.
fn grown(windows: &[RecordBatch], max_rows: u64, seed: u64, cut: usize) -> BoundedBank {
    let mut bounded = BoundedBank::new(max_rows, seed);
    for window in windows {
        let mut rows = bounded.newest_window();
        fill(&mut rows, window, cut);
        bounded.push(window.num_rows() as u64, rows).unwrap();
    }
    bounded
}

fn fill(rows: &mut WindowRows, window: &RecordBatch, cut: usize) {
    for first in (0..window.num_rows()).step_by(cut) {
        if rows.is_wanting() {
            rows.push(window.slice(first, cut.min(window.num_rows() - first))).unwrap();
        }
    }
}

/// Fills the same bank at once, from the facts known of all windows.
fn loaded(windows: &[RecordBatch], max_rows: u64, seed: u64) -> BoundedBank {
    let mut bounded = BoundedBank::new(max_rows, seed);
    let counts: Vec<u64> = windows.iter().map(|window| window.num_rows() as u64).collect();
    let earlier = windows.len() - bounded.newest_windows(&counts);
    for (number, window) in windows.iter().enumerate() {
        let mut rows = if number < earlier { bounded.earlier_window() } else { bounded.newest_window() };
        fill(&mut rows, window, 3);
        if number < earlier { bounded.push_earlier(rows).unwrap() } else { bounded.push(counts[number], rows).unwrap() }
    }
    bounded
}

#[test]
fn a_bank_has_the_newest_windows_whole_and_a_draw_of_all_before() {
    let windows = windows(8);
    let bank = |max_rows| ids(&grown(&windows, max_rows, 1, 4).bank().unwrap());
    assert_eq!(bank(160).len(), 80, "all of them");
    let bounded = bank(40);
    assert_eq!((bounded.len(), bounded.range(600..).count()), (40, 20));
    assert!((0..6).filter(|window| bounded.range(100 * window..100 * window + 100).count() > 0).count() > 3, "not the latest ones alone");
    assert_eq!(bank(40), bounded);
    assert!(ids(&BoundedBank::new(10, 1).bank().unwrap()).is_empty());
    let small = bank(8);
    assert_eq!((small.len(), small.range(700..).count()), (8, 4), "half of the bank is for the last window even if it does not fit");
}

#[test]
fn who_is_drawn_depends_on_the_seed_and_each_row_has_its_chance() {
    let mut drawn = std::collections::BTreeMap::<u16, u32>::new();
    for seed in 0..200 {
        let windows: Vec<RecordBatch> = (0..4).map(|window| by_place(&[bank_rows(100 * window, 10, 1)], seed).unwrap()).collect();
        for id in ids(&grown(&windows, 20, seed, 4).bank().unwrap()).range(..300) {
            *drawn.entry(*id).or_default() += 1;
        }
    }
    assert_eq!(drawn.len(), 30, "ten of thirty are drawn, and each of them sometimes");
    assert!(drawn.values().all(|times| (40..95).contains(times)), "each of them about 67 times: {drawn:?}");
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn a_bank_that_grew_is_the_one_that_is_loaded_at_once(sizes in prop::collection::vec(0_u16..30, 0..9), max_rows in 2_u64..120, cut in 1_usize..9) {
        let window = |(number, size): (usize, &u16)| by_place(&[bank_rows(100 * number as u16, *size, 1)], 5).unwrap();
        let windows: Vec<RecordBatch> = sizes.iter().enumerate().map(window).collect();
        let grown = grown(&windows, max_rows, 5, cut).bank().unwrap();
        prop_assert_eq!(ids(&grown), ids(&loaded(&windows, max_rows, 5).bank().unwrap()));
        prop_assert!(grown.len() as u64 <= max_rows);
    }
}
