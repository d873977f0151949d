//! Readers: every pack once an epoch, in an order that can be resumed anywhere; damage is reported.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use cm3flow_schemas::pack::{Pack, PackBatch, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::traits::{PackSource, ReaderState};
use cm3flow_schemas::vocabulary::TokenWidth;
use cm3flow_schemas::{columns, rows};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::error::{Result, StageError};
use crate::fixtures::{self, SEQ_LEN};
use crate::shard::{Shard, ShardConfig, write};

/// Returns the packs of the test data, made once.
pub(super) fn packed() -> &'static RecordBatch {
    static PACKED: LazyLock<RecordBatch> = LazyLock::new(fixtures::packed);
    &PACKED
}

/// Feed of windows that are all committed.
pub(super) struct Committed(pub(super) Vec<WindowShards>);

impl WindowFeed for Committed {
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>> {
        std::future::ready(Ok(self.0.get(index).cloned())).boxed()
    }

    fn has(&self, index: usize) -> bool {
        index <= self.0.len()
    }
}

/// Feed of windows that are committed one by one, each after a few polls.
struct Growing {
    windows: Vec<WindowShards>,
    asked: Arc<AtomicUsize>,
}

impl WindowFeed for Growing {
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>> {
        async move {
            self.asked.fetch_max(index + 1, Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            Ok(self.windows.get(index).cloned())
        }
        .boxed()
    }
}

/// Makes packs with a distinct second token.
fn numbered(first: u32, count: u32) -> RecordBatch {
    let found: Vec<Pack> = rows::read(packed(), &[columns::TOKENS, columns::SEGMENTS, columns::DOCUMENTS]).unwrap();
    let mut packs: Vec<Pack> = (0..count).map(|number| found[number as usize % found.len()].clone()).collect();
    packs.iter_mut().zip(first..).for_each(|(pack, number)| pack.tokens[1] = number);
    rows::write(&packed().schema(), &packs).unwrap()
}

pub(super) struct Dataset {
    store: Arc<InMemory>,
    pub(super) windows: Vec<WindowShards>,
    pub(super) runtime: Runtime,
}

impl Dataset {
    /// Makes windows of so many train packs each, in blocks of three and files of six, and one held-out pack a window.
    pub(super) fn new(sizes: &[u32]) -> Self {
        Self::of_variants(&sizes.iter().map(std::slice::from_ref).collect::<Vec<_>>())
    }

    /// Makes windows as [`Self::new`], with the packs of each variant of each window.
    pub(super) fn of_variants(sizes: &[&[u32]]) -> Self {
        let runtime = Runtime::new().unwrap();
        let store = Arc::new(InMemory::new());
        let bytes = u64::from(SEQ_LEN) * 2;
        let config = ShardConfig { block_bytes: 3 * bytes, max_shard_bytes: 6 * bytes };
        let mut first = 0;
        let mut windows = Vec::new();
        for (size, number) in sizes.iter().zip(0..) {
            let mut shards = Vec::new();
            for (&size, variant) in size.iter().zip(0..) {
                let of_variant = write(&config, Split::Train, &packed().schema(), &[numbered(first, size)], bytes).unwrap();
                let named = |shard: Shard| Shard { entry: ShardEntry { variant, ..shard.entry }, ..shard };
                shards.extend(of_variant.into_iter().map(named));
                first += size;
            }
            shards.extend(write(&config, Split::HeldOut, &packed().schema(), &[numbered(10_000 + number, 1)], bytes).unwrap());
            for shard in &shards {
                let path = Path::from(format!("shards/{}.arrow", shard.entry.digest));
                runtime.block_on(store.put(&path, shard.bytes.clone().into())).unwrap();
            }
            windows.push(shards.into_iter().map(|shard| shard.entry).collect());
        }
        Self { store, windows, runtime }
    }

    fn reader_of(&self, feed: impl WindowFeed + 'static, split: Split, seed: u64) -> PackReader {
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.store) as _;
        let order = PackOrder { split, seed, seq_len: SEQ_LEN as usize };
        PackReader::new(store, Box::new(feed), packed().schema(), order, self.runtime.handle().clone())
    }

    fn reader(&self, seed: u64) -> PackReader {
        self.reader_of(Committed(self.windows.clone()), Split::Train, seed)
    }

    fn blocks(&self) -> BlockReader {
        BlockReader::new(Arc::clone(&self.store) as _, packed().schema())
    }

    /// Writes the shards below `folder`, in the layout of a local store.
    pub(super) fn save(&self, folder: &std::path::Path) {
        std::fs::create_dir_all(folder.join("shards")).unwrap();
        for shard in self.windows.iter().flatten() {
            let name = format!("shards/{}.arrow", shard.digest);
            let bytes = self.runtime.block_on(async { self.store.get(&Path::from(name.as_str())).await.unwrap().bytes().await.unwrap() });
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }

    fn shard(&self) -> &ShardEntry {
        &self.windows[0][0]
    }

    fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let path = Path::from(format!("shards/{}.arrow", self.shard().digest));
        self.runtime.block_on(async {
            let mut bytes = self.store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
            change(&mut bytes);
            self.store.put(&path, bytes.into()).await.unwrap();
        });
    }
}

/// Returns the numbers of the packs in a batch.
fn numbers(batch: &PackBatch) -> Vec<u32> {
    batch.tokens.chunks_exact(batch.seq_len).map(|pack| pack[1]).collect()
}

fn take(reader: &mut PackReader, packs: usize) -> Vec<u32> {
    (0..packs).flat_map(|_| numbers(&reader.next_batch(1).unwrap())).collect()
}

#[test]
fn every_pack_comes_once_an_epoch() {
    let dataset = Dataset::new(&[20]);
    let mut reader = dataset.reader(1);
    let (first, second) = (take(&mut reader, 20), take(&mut reader, 20));
    for epoch in [&first, &second] {
        assert_eq!(epoch.iter().copied().collect::<BTreeSet<u32>>(), (0..20).collect());
    }
    assert_ne!(first, second, "each epoch has an order of its own");
    assert_ne!(first, (0..20).collect::<Vec<_>>());
    assert_ne!(first, take(&mut dataset.reader(2), 20));
    assert_eq!(first, take(&mut dataset.reader(1), 20));
}

#[test]
fn epochs_read_the_variants_in_turn() {
    let dataset = Dataset::of_variants(&[&[7, 8], &[], &[5, 3]]);
    let mut reader = dataset.reader(1);
    let epochs = [12, 11, 12, 11].map(|packs| take(&mut reader, packs));
    let sets = epochs.clone().map(|epoch| epoch.into_iter().collect::<BTreeSet<u32>>());
    assert_eq!(sets[0], (0..7).chain(15..20).collect());
    assert_eq!(sets[1], (7..15).chain(20..23).collect());
    assert_eq!((&sets[2], &sets[3]), (&sets[0], &sets[1]));
    assert_ne!(epochs[0], epochs[2], "a variant that is read again has another order");
    let mut resumed = dataset.reader(1);
    resumed.restore(ReaderState { position: 30 });
    assert_eq!(take(&mut resumed, 16), [&epochs[2][7..], &epochs[3]].concat());
    let held_out = take(&mut dataset.reader_of(Committed(dataset.windows.clone()), Split::HeldOut, 1), 6);
    assert_eq!(held_out[..3].iter().collect::<BTreeSet<_>>(), held_out[3..].iter().collect(), "held-out packs have one variant");
}

#[test]
fn packs_come_as_they_were_written() {
    let dataset = Dataset::new(&[8]);
    let written: Vec<Pack> = rows::read(&numbered(0, 8), &[columns::TOKENS, columns::SEGMENTS, columns::DOCUMENTS]).unwrap();
    let by_number: BTreeMap<u32, Pack> = written.into_iter().map(|pack| (pack.tokens[1], pack)).collect();
    let batch = dataset.reader(1).next_batch(8).unwrap();
    assert_eq!((batch.rows(), batch.seq_len), (8, SEQ_LEN as usize));
    for (row, number) in numbers(&batch).into_iter().enumerate() {
        let pack = &by_number[&number];
        assert_eq!(batch.tokens[row * batch.seq_len..][..batch.seq_len], pack.tokens);
        assert_eq!(batch.segments[row], pack.segments);
        assert_eq!(batch.document_starts[row], pack.documents.iter().map(|document| document.start).collect::<Vec<_>>());
    }
    let mut blocks = dataset.blocks();
    let train: Vec<ShardEntry> = dataset.windows[0].iter().filter(|shard| shard.split == Split::Train).cloned().collect();
    let stored = dataset.runtime.block_on(read_packs(&mut blocks, &train, 100)).unwrap();
    assert_eq!(stored, by_number.into_values().collect::<Vec<_>>(), "in the order in which they are stored");
    assert_eq!(dataset.runtime.block_on(read_packs(&mut blocks, &train, 5)).unwrap(), stored[..5]);
}

proptest! {
    #![proptest_config(crate::conformance::cases())]
    #[test]
    fn a_reader_resumed_anywhere_goes_on_in_the_same_order(at in 0_usize..50, batch in 1_usize..7) {
        let dataset = Dataset::new(&[9, 13]);
        let all = take(&mut dataset.reader(1), 60);
        let mut reader = dataset.reader(1);
        take(&mut reader, at);
        let state = reader.state();
        prop_assert_eq!(state, ReaderState { position: at as u64 });
        let text = serde_json::to_string(&state).unwrap();
        let mut resumed = dataset.reader(1);
        resumed.restore(serde_json::from_str(&text).unwrap());
        let next: Vec<u32> = (0..2).flat_map(|_| numbers(&resumed.next_batch(batch).unwrap())).collect();
        prop_assert_eq!(&next[..2 * batch.min(5)], &all[at..][..2 * batch.min(5)]);
    }
}

#[test]
fn the_order_does_not_depend_on_the_size_of_batches() {
    let dataset = Dataset::new(&[9, 13]);
    let all = take(&mut dataset.reader(1), 44);
    for rows in [2, 11, 44] {
        let mut reader = dataset.reader(1);
        let batches: Vec<u32> = (0..44 / rows).flat_map(|_| numbers(&reader.next_batch(rows).unwrap())).collect();
        assert_eq!(batches, all);
    }
}

#[test]
fn ranks_that_take_turns_see_everything_once() {
    let dataset = Dataset::new(&[24]);
    let all = take(&mut dataset.reader(1), 24);
    let mut shared = vec![0; 24];
    for rank in 0..4_usize {
        let mut reader = dataset.reader(1);
        for step in 0..6_usize {
            reader.restore(ReaderState { position: (step * 4 + rank) as u64 });
            shared[step * 4 + rank] = take(&mut reader, 1)[0];
        }
    }
    assert_eq!(shared, all);
}

#[test]
fn windows_come_in_order_and_are_mixed_inside() {
    let dataset = Dataset::new(&[12, 0, 7]);
    let order = take(&mut dataset.reader(1), 19);
    assert_eq!(order[..12].iter().copied().collect::<BTreeSet<u32>>(), (0..12).collect());
    assert_eq!(order[12..].iter().copied().collect::<BTreeSet<u32>>(), (12..19).collect());
}

#[test]
fn a_follower_reads_what_readers_of_the_version_read() {
    let dataset = Dataset::new(&[9, 13]);
    let asked = Arc::new(AtomicUsize::new(0));
    let growing = Growing { windows: dataset.windows.clone(), asked: Arc::clone(&asked) };
    let mut follower = dataset.reader_of(growing, Split::Train, 1);
    let first = take(&mut follower, 9);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the first window can be read before the second is committed");
    let rest = take(&mut follower, 51);
    assert_eq!([first, rest].concat(), take(&mut dataset.reader(1), 60));
}

#[test]
fn splits_are_kept_apart() {
    let dataset = Dataset::new(&[5, 5]);
    let mut reader = dataset.reader_of(Committed(dataset.windows.clone()), Split::HeldOut, 1);
    assert_eq!(take(&mut reader, 2), [10_000, 10_001]);
    assert!(take(&mut dataset.reader(1), 10).iter().all(|number| *number < 10));
}

#[test]
fn a_dataset_without_packs_of_the_split_is_an_error() {
    let dataset = Dataset::new(&[3]);
    let train: Vec<WindowShards> = vec![dataset.windows[0].iter().filter(|shard| shard.split == Split::Train).cloned().collect()];
    for windows in [vec![], train] {
        let error = dataset.reader_of(Committed(windows), Split::HeldOut, 1).next_batch(1).unwrap_err();
        assert!(error.to_string().contains("held_out"), "{error}");
    }
}

#[test]
fn a_flipped_byte_is_refused_naming_the_block() {
    let dataset = Dataset::new(&[6]);
    let block = dataset.shard().blocks[1].clone();
    for offset in [block.offset, block.offset + block.metadata_bytes, block.offset + block.metadata_bytes + block.body_bytes - 1] {
        dataset.damage(|bytes| bytes[offset as usize] ^= 1);
        let mut blocks = dataset.blocks();
        assert!(dataset.runtime.block_on(blocks.block(dataset.shard(), 0)).is_ok(), "other blocks are fine");
        let error = dataset.runtime.block_on(blocks.block(dataset.shard(), 1)).unwrap_err();
        assert!(matches!(&error, StageError::Block { block: 1, shard, .. } if *shard == dataset.shard().digest.to_string()), "{error:?}");
        assert!(dataset.reader(1).next_batch(6).is_err(), "nor does a trainer see it");
        dataset.damage(|bytes| bytes[offset as usize] ^= 1);
    }
    assert!(dataset.reader(1).next_batch(6).is_ok());
}

#[test]
fn a_shard_that_is_cut_or_gone_is_an_error_that_names_it() {
    let dataset = Dataset::new(&[6]);
    let digest = dataset.shard().digest.to_string();
    let end = dataset.shard().blocks[1].offset as usize + 100;
    dataset.damage(|bytes| bytes.truncate(end));
    let error = dataset.runtime.block_on(dataset.blocks().block(dataset.shard(), 1)).unwrap_err();
    assert!(error.to_string().contains(&digest), "{error}");
    dataset.runtime.block_on(dataset.store.delete(&Path::from(format!("shards/{digest}.arrow")))).unwrap();
    let error = dataset.runtime.block_on(dataset.blocks().block(dataset.shard(), 0)).unwrap_err();
    assert!(matches!(error, StageError::Store { .. }) && error.to_string().contains(&digest), "{error:?}");
}

#[test]
fn packs_of_another_width_or_length_are_refused() {
    let dataset = Dataset::new(&[6]);
    for schema in [
        columns::pack(SEQ_LEN as usize, TokenWidth::U32),
        columns::pack(SEQ_LEN as usize * 2, TokenWidth::U16),
        columns::pack(SEQ_LEN as usize / 2, TokenWidth::U16),
    ] {
        let mut blocks = BlockReader::new(Arc::clone(&dataset.store) as _, schema);
        let read = dataset.runtime.block_on(blocks.block(dataset.shard(), 0));
        assert!(matches!(read, Err(StageError::Block { .. })), "{read:?}");
    }
}

#[test]
fn a_block_that_was_read_is_not_fetched_again() {
    let dataset = Dataset::new(&[6]);
    let mut blocks = dataset.blocks();
    let before = dataset.runtime.block_on(blocks.block(dataset.shard(), 0)).unwrap();
    dataset.damage(|bytes| bytes.clear());
    assert_eq!(dataset.runtime.block_on(blocks.block(dataset.shard(), 0)).unwrap(), before);
}

#[test]
fn the_schema_of_packs_is_that_of_shards() {
    let dataset = Dataset::new(&[3]);
    let block = dataset.runtime.block_on(dataset.blocks().block(dataset.shard(), 0)).unwrap();
    insta::assert_snapshot!(crate::conformance::schema_table(&block.schema()));
}
