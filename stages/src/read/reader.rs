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
        let blocks = shards.iter().enumerate().flat_map(|(shard, entry)| (0..entry.blocks.len()).map(move |block| (shard, block))).collect();
        let packs = shards.iter().map(|shard| shard.packs).sum();
        Self { shards, blocks, packs }
    }

    /// Shard, block and row of the `index`-th pack in the order of `epoch`.
    fn locate(&self, seed: u64, epoch: u64, window: u64, index: u64) -> (usize, usize, usize) {
        let key = |purpose: &'static [u8]| [purpose.to_vec(), seed.to_le_bytes().to_vec(), epoch.to_le_bytes().to_vec(), window.to_le_bytes().to_vec()].concat();
        let order = Permutation::new(self.blocks.len() as u64, &[&key(b"blocks")]);
        let packs_of = |place: u64| {
            let (shard, block) = self.blocks[order.at(place) as usize];
            self.shards[shard].blocks[block].packs
        };
        let mut before = 0;
        for group in 0..(self.blocks.len() as u64).div_ceil(GROUP_BLOCKS) {
            let places = group * GROUP_BLOCKS..((group + 1) * GROUP_BLOCKS).min(self.blocks.len() as u64);
            let packs: u64 = places.clone().map(packs_of).sum();
            if index < before + packs {
                let mut row = Permutation::new(packs, &[&key(b"packs"), &group.to_le_bytes()]).at(index - before);
                for place in places {
                    if row < packs_of(place) {
                        let (shard, block) = self.blocks[order.at(place) as usize];
                        return (shard, block, row as usize);
                    }
                    row -= packs_of(place);
                }
            }
            before += packs;
        }
        unreachable!("the index is below the window's number of packs")
    }
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
    complete: bool,
    position: u64,
}

impl PackReader {
    /// Reads the windows of `feed` from `store`; packs have `schema` and `seq_len` tokens. Its methods block, so they must be called
    /// outside of `runtime`, which does the I/O.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, feed: Box<dyn WindowFeed>, schema: SchemaRef, (split, seed, seq_len): (Split, u64, usize), runtime: Handle) -> Self {
        let blocks = BlockReader::new(store, schema);
        Self { blocks, feed, split, seed, seq_len, runtime, windows: Vec::new(), complete: false, position: 0 }
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
        let mut batch = PackBatch { seq_len: self.seq_len, tokens: Vec::with_capacity(rows * self.seq_len), segments: Vec::new(), document_starts: Vec::new() };
        for _ in 0..rows {
            let (epoch, number, index) = self.place(self.position).await?;
            let window = &self.windows[number];
            let (shard, block, row) = window.locate(self.seed, epoch, number as u64, index);
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
