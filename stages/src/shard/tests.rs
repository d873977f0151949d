//! Shards: files return what was written, in blocks with their own digests, with the same bytes for any cuts.

#![allow(clippy::unwrap_used)]

use arrow::ipc::reader::FileReader;
use cm3flow_schemas::vocabulary::TokenWidth;
use proptest::prelude::*;

use super::*;
use crate::conformance::{cases, cut, rows_and_cuts, rows_of, schema_table};
use crate::fixtures::{SEQ_LEN, packed};

const PACK_BYTES: u64 = SEQ_LEN as u64 * 2;

/// Returns limits of three packs a block and two blocks a file.
fn small() -> ShardConfig {
    ShardConfig { block_bytes: 3 * PACK_BYTES, max_shard_bytes: 6 * PACK_BYTES }
}

/// Makes any number of packs by repeating the rows of the test data.
fn packs(count: u32) -> RecordBatch {
    let rows = packed().num_rows() as u32;
    rows_of(&packed(), &(0..count).map(|row| row * 7 % rows).collect::<Vec<_>>())
}

fn write_all(config: &ShardConfig, batches: &[RecordBatch]) -> Vec<Shard> {
    write(config, Split::Train, &packed().schema(), batches, PACK_BYTES).unwrap()
}

fn read_all(shards: &[Shard]) -> RecordBatch {
    let batches: Vec<RecordBatch> = shards
        .iter()
        .flat_map(|shard| FileReader::try_new(std::io::Cursor::new(shard.bytes.clone()), None).unwrap().map(Result::unwrap))
        .collect();
    concat_batches(&packed().schema(), &batches).unwrap()
}

/// Returns entries and bytes of all files, which must not depend on cuts.
fn content(shards: Vec<Shard>) -> Vec<(ShardEntry, Vec<u8>)> {
    shards.into_iter().map(|shard| (shard.entry, shard.bytes)).collect()
}

#[test]
fn what_is_written_is_read_back_in_order() {
    for count in [1, 3, 5, 6, 7, 20] {
        let shards = write_all(&small(), &[packs(count)]);
        assert_eq!(read_all(&shards), packs(count));
        assert_eq!(shards.iter().map(|shard| shard.entry.packs).sum::<u64>(), u64::from(count));
    }
}

#[test]
fn files_and_blocks_keep_their_limits() {
    let shards = write_all(&small(), &[packs(20)]);
    let sizes: Vec<Vec<u64>> = shards.iter().map(|shard| shard.entry.blocks.iter().map(|block| block.packs).collect()).collect();
    assert_eq!(sizes, [vec![3, 3], vec![3, 3], vec![3, 3], vec![2]]);
    let tiny = ShardConfig { block_bytes: 1, max_shard_bytes: 1 };
    assert_eq!(write_all(&tiny, &[packs(3)]).len(), 3, "a block has one pack at least");
}

#[test]
fn entries_name_the_bytes() {
    for shard in write_all(&small(), &[packs(8)]) {
        assert_eq!(
            (shard.entry.digest, shard.entry.bytes, shard.entry.split),
            (Digest::of(&shard.bytes), shard.bytes.len() as u64, Split::Train)
        );
        let mut end = 0;
        for block in &shard.entry.blocks {
            assert!(block.offset >= end, "blocks do not overlap");
            end = block.offset + block.metadata_bytes + block.body_bytes;
            assert_eq!(block.digest, Digest::of(&shard.bytes[block.offset as usize..end as usize]));
        }
        assert!(end <= shard.entry.bytes);
    }
}

#[test]
fn no_packs_make_no_file() {
    assert!(write_all(&small(), &[]).is_empty());
    assert!(write_all(&small(), &[packs(3).slice(0, 0)]).is_empty());
}

#[test]
fn a_block_holds_its_own_packs_and_no_more() {
    // The same packs, as a part of many and alone.
    let many = write_all(&small(), &[packs(12)]);
    let alone = write_all(&small(), &[rows_of(&packs(12), &[6, 7, 8, 9, 10, 11])]);
    assert_eq!(many[1].bytes, alone[0].bytes);
}

#[test]
fn blocks_that_were_read_from_a_shard_give_its_bytes_again() {
    for shard in write_all(&small(), &[packs(8)]) {
        let blocks: Vec<RecordBatch> =
            FileReader::try_new(std::io::Cursor::new(shard.bytes.clone()), None).unwrap().map(Result::unwrap).collect();
        let again = write_blocks(Split::Train, &packed().schema(), &blocks).unwrap();
        assert_eq!((again.entry, again.bytes), (shard.entry, shard.bytes));
    }
}

#[test]
fn a_replaced_block_leaves_the_structure_and_the_other_blocks_alone() {
    let shard = write_all(&small(), &[packs(6)]).remove(0);
    let blocks = [packs(6).slice(0, 3), packs(9).slice(6, 3)];
    let replaced = write_blocks(Split::Train, &packed().schema(), &blocks).unwrap().entry;
    assert_ne!(replaced.digest, shard.entry.digest);
    assert_eq!(replaced.packs, shard.entry.packs);
    assert_eq!(replaced.blocks[0].digest, shard.entry.blocks[0].digest);
    assert_ne!(replaced.blocks[1].digest, shard.entry.blocks[1].digest);
    assert_eq!(replaced.blocks[1].packs, shard.entry.blocks[1].packs);
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn the_same_bytes_are_written_whatever_the_cuts((rows, sizes) in rows_and_cuts(packed().num_rows())) {
        let input = rows_of(&packed(), &rows);
        let whole = content(write_all(&small(), std::slice::from_ref(&input)));
        prop_assert!(whole == content(write_all(&small(), &cut(&input, &sizes))), "cut into {:?}", sizes);
    }
}

#[test]
fn shard_schema() {
    let shards = write_all(&small(), &[packs(1)]);
    let reader = FileReader::try_new(std::io::Cursor::new(shards[0].bytes.clone()), None).unwrap();
    assert_eq!(reader.schema(), cm3flow_schemas::columns::pack(SEQ_LEN as usize, TokenWidth::U16));
    insta::assert_snapshot!(schema_table(&reader.schema()));
}

#[test]
fn batches_of_another_schema_are_an_error() {
    let other = cm3flow_schemas::columns::pack(SEQ_LEN as usize, TokenWidth::U32);
    assert!(matches!(write(&small(), Split::Train, &other, &[packs(1)], PACK_BYTES), Err(StageError::Arrow { .. })));
}

#[test]
fn sizes_out_of_range_are_named() {
    assert!(ShardConfig::default().problems().is_empty());
    let problems = ShardConfig { block_bytes: 1, max_shard_bytes: 0 }.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().all(|problem| problem.starts_with("shard.")), "{problems:?}");
}
