//! Blocks of one split of one window, and the order in which an epoch reads them.
//!
//! Blocks are permuted, and packs within each group of [`GROUP_BLOCKS`] of them, so that a reader needs the blocks of one group at a time.

use cm3flow_schemas::Digest;
use cm3flow_schemas::pack::{BlockEntry, ShardEntry};
use cm3flow_schemas::sample::Split;

use super::order::Permutation;

/// Blocks whose packs are mixed: what a reader holds in memory at once.
pub(super) const GROUP_BLOCKS: u64 = 4;

/// Shards of a window.
pub type WindowShards = Vec<ShardEntry>;

/// Blocks of one split of one window.
pub(super) struct Window {
    shards: Vec<ShardEntry>,
    /// Shard and block number of every block.
    blocks: Vec<(u32, u32)>,
    packs: u64,
}

/// Where a block lies.
#[derive(Debug, Clone)]
pub(super) struct BlockPlace {
    pub shard: Digest,
    pub index: usize,
    pub entry: BlockEntry,
}

impl BlockPlace {
    pub(super) fn new(shard: &ShardEntry, index: usize) -> Self {
        Self { shard: shard.digest, index, entry: shard.blocks[index].clone() }
    }

    /// What tells it from every other block.
    pub(super) const fn key(&self) -> (Digest, usize) {
        (self.shard, self.index)
    }
}

impl Window {
    pub(super) fn new(shards: WindowShards, split: Split) -> Self {
        let shards: Vec<ShardEntry> = shards.into_iter().filter(|shard| shard.split == split).collect();
        let blocks = (0_u32..).zip(&shards).flat_map(|(shard, entry)| (0..entry.blocks.len() as u32).map(move |block| (shard, block)));
        let blocks = blocks.collect();
        let packs = shards.iter().map(|shard| shard.packs).sum();
        Self { shards, blocks, packs }
    }

    pub(super) const fn packs(&self) -> u64 {
        self.packs
    }

    /// The groups of this window, number `window`, in the order of `epoch`.
    pub(super) fn groups(&self, seed: u64, epoch: u64, window: usize) -> Groups {
        let key = order_key(seed, epoch, window);
        let order = Permutation::new(self.blocks.len() as u64, &[&[b"blocks".as_slice(), &key].concat()]);
        let mut ends = Vec::with_capacity(self.blocks.len().div_ceil(GROUP_BLOCKS as usize));
        let mut end = 0;
        for place in 0..self.blocks.len() as u64 {
            end += self.packs_of(order.at(place));
            if (place + 1) % GROUP_BLOCKS == 0 || place + 1 == self.blocks.len() as u64 {
                ends.push(end);
            }
        }
        Groups { epoch, window, order, ends, key: [b"packs".as_slice(), &key].concat() }
    }

    fn packs_of(&self, block: u64) -> u64 {
        let (shard, index) = self.blocks[block as usize];
        self.shards[shard as usize].blocks[index as usize].packs
    }

    /// Blocks of group `group`, in their order.
    pub(super) fn group_blocks(&self, groups: &Groups, group: usize) -> impl Iterator<Item = BlockPlace> {
        let first = group as u64 * GROUP_BLOCKS;
        let end = (first + GROUP_BLOCKS).min(self.blocks.len() as u64);
        (first..end).map(|place| {
            let (shard, index) = self.blocks[groups.order.at(place) as usize];
            BlockPlace::new(&self.shards[shard as usize], index as usize)
        })
    }
}

/// Order of a window's blocks in an epoch, and behind how many packs each group of them ends. Found once an epoch and window, since it
/// takes a look at every block.
pub(super) struct Groups {
    pub epoch: u64,
    pub window: usize,
    order: Permutation,
    ends: Vec<u64>,
    key: Vec<u8>,
}

impl Groups {
    pub(super) const fn count(&self) -> usize {
        self.ends.len()
    }

    /// Number of the group that holds the `index`-th pack of the window.
    pub(super) fn group_of(&self, index: u64) -> usize {
        self.ends.partition_point(|end| *end <= index)
    }

    /// Packs of the window before group `group` and behind it.
    pub(super) fn bounds(&self, group: usize) -> (u64, u64) {
        (if group == 0 { 0 } else { self.ends[group - 1] }, self.ends[group])
    }

    /// The order of the packs of group `group`, counted over its blocks.
    pub(super) fn packs(&self, group: usize) -> Permutation {
        let (start, end) = self.bounds(group);
        Permutation::new(end - start, &[&self.key, &(group as u64).to_le_bytes()])
    }
}

fn order_key(seed: u64, epoch: u64, window: usize) -> [u8; 24] {
    let mut key = [0; 24];
    key.chunks_exact_mut(8).zip([seed, epoch, window as u64]).for_each(|(to, from)| to.copy_from_slice(&from.to_le_bytes()));
    key
}
