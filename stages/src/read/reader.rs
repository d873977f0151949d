//! The reader that trainers use.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use cm3flow_schemas::DynError;
use cm3flow_schemas::pack::{PackBatch, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::traits::{PackSource, ReaderState};
use futures::future::BoxFuture;
use object_store::ObjectStore;
use tokio::runtime::Handle;

use super::block::{BlockReader, append_pack};
use super::order::Permutation;
use crate::error::{Result, StageError};

/// Blocks whose packs are mixed: what a reader holds in memory at once.
const GROUP_BLOCKS: u64 = 4;

/// Shards of a window.
pub type WindowShards = Vec<ShardEntry>;

/// Says which windows there are, as they are committed.
pub trait WindowFeed: Send {
    /// Shards of window `index`; waits until it is committed. `None` once the windows are complete.
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>>;
}

/// Blocks of one split of one window.
struct Window {
    shards: Vec<ShardEntry>,
    /// Shard and block number of every block.
    blocks: Vec<(usize, usize)>,
    packs: u64,
}

impl Window {
    fn new(shards: WindowShards, split: Split) -> Self {
        let shards: Vec<ShardEntry> = shards.into_iter().filter(|shard| shard.split == split).collect();
        let blocks =
            shards.iter().enumerate().flat_map(|(shard, entry)| (0..entry.blocks.len()).map(move |block| (shard, block))).collect();
        let packs = shards.iter().map(|shard| shard.packs).sum();
        Self { shards, blocks, packs }
    }

    /// The groups of this window, number `window`, in the order of `epoch`.
    fn groups(&self, seed: u64, epoch: u64, window: usize) -> Groups {
        let key = [b"blocks".as_slice(), &order_key(seed, epoch, window)].concat();
        let order = Permutation::new(self.blocks.len() as u64, &[&key]);
        let mut ends = Vec::with_capacity(self.blocks.len().div_ceil(GROUP_BLOCKS as usize));
        let mut end = 0;
        for place in 0..self.blocks.len() as u64 {
            end += self.packs_of(order.at(place));
            if (place + 1) % GROUP_BLOCKS == 0 || place + 1 == self.blocks.len() as u64 {
                ends.push(end);
            }
        }
        Groups { epoch, window, order, ends }
    }

    fn packs_of(&self, block: u64) -> u64 {
        let (shard, block) = self.blocks[block as usize];
        self.shards[shard].blocks[block].packs
    }

    /// Shard, block and row of the `index`-th pack, which must be below the window's number of packs.
    fn locate(&self, seed: u64, groups: &Groups, index: u64) -> (usize, usize, usize) {
        let group = groups.ends.partition_point(|end| *end <= index);
        let start = if group == 0 { 0 } else { groups.ends[group - 1] };
        let key = [b"packs".as_slice(), &order_key(seed, groups.epoch, groups.window)].concat();
        let rows = Permutation::new(groups.ends[group] - start, &[&key, &(group as u64).to_le_bytes()]);
        let mut row = rows.at(index - start);
        let mut place = group as u64 * GROUP_BLOCKS;
        loop {
            let found = groups.order.at(place);
            if row < self.packs_of(found) {
                let (shard, block) = self.blocks[found as usize];
                return (shard, block, row as usize);
            }
            row -= self.packs_of(found);
            place += 1;
        }
    }
}

fn order_key(seed: u64, epoch: u64, window: usize) -> [u8; 24] {
    let mut key = [0; 24];
    key.chunks_exact_mut(8).zip([seed, epoch, window as u64]).for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
    key
}

/// Order of a window's blocks in an epoch, and behind how many packs each group of them ends. Found once an epoch and window, since it
/// takes a look at every block.
struct Groups {
    epoch: u64,
    window: usize,
    order: Permutation,
    ends: Vec<u64>,
}

/// Reads packs of one split, epoch after epoch.
pub struct PackReader {
    blocks: BlockReader,
    feed: Box<dyn WindowFeed>,
    split: Split,
    seed: u64,
    seq_len: usize,
    runtime: Handle,
    windows: Vec<Window>,
    groups: Option<Groups>,
    complete: bool,
    position: u64,
}

impl PackReader {
    /// Reads the windows of `feed` from `store`; packs have `schema` and `seq_len` tokens. Its methods block, so they must be called
    /// outside of `runtime`, which does the I/O.
    #[must_use]
    pub fn new(
        store: Arc<dyn ObjectStore>,
        feed: Box<dyn WindowFeed>,
        schema: SchemaRef,
        (split, seed, seq_len): (Split, u64, usize),
        runtime: Handle,
    ) -> Self {
        let blocks = BlockReader::new(store, schema);
        Self { blocks, feed, split, seed, seq_len, runtime, windows: Vec::new(), groups: None, complete: false, position: 0 }
    }

    /// Epoch, window and index within the window of a global position.
    async fn place(&mut self, position: u64) -> Result<(u64, usize, u64)> {
        loop {
            let total: u64 = self.windows.iter().map(|window| window.packs).sum();
            if position < total || self.complete {
                if total == 0 {
                    return Err(StageError::NoPacks { split: self.split.name() });
                }
                let (epoch, mut index) = (position / total, position % total);
                for (number, window) in self.windows.iter().enumerate() {
                    if index < window.packs {
                        return Ok((epoch, number, index));
                    }
                    index -= window.packs;
                }
            }
            match self.feed.window(self.windows.len()).await? {
                Some(shards) => self.windows.push(Window::new(shards, self.split)),
                None => self.complete = true,
            }
        }
    }

    async fn read(&mut self, rows: usize) -> Result<PackBatch> {
        let mut batch = PackBatch {
            seq_len: self.seq_len,
            tokens: Vec::with_capacity(rows * self.seq_len),
            segments: Vec::new(),
            document_starts: Vec::new(),
        };
        for _ in 0..rows {
            let (epoch, number, index) = self.place(self.position).await?;
            let window = &self.windows[number];
            let groups = match &mut self.groups {
                Some(groups) if (groups.epoch, groups.window) == (epoch, number) => groups,
                other => other.insert(window.groups(self.seed, epoch, number)),
            };
            let (shard, block, row) = window.locate(self.seed, groups, index);
            let block = self.blocks.block(&window.shards[shard], block).await?;
            append_pack(&block, row, &mut batch);
            self.position += 1;
        }
        Ok(batch)
    }
}

impl PackSource for PackReader {
    fn next_batch(&mut self, rows: usize) -> Result<PackBatch, DynError> {
        let runtime = self.runtime.clone();
        Ok(runtime.block_on(self.read(rows))?)
    }

    fn state(&self) -> ReaderState {
        ReaderState { position: self.position }
    }

    fn restore(&mut self, state: ReaderState) {
        self.position = state.position;
    }
}
