//! Blocks of one split of one window, and the order in which an epoch reads them.
//!
//! Blocks are permuted, and so are the packs within each group of [`GROUP_BLOCKS`] blocks. A reader thus needs the blocks of one group at a
//! time.

use cm3flow_schemas::Digest;
use cm3flow_schemas::pack::{BlockEntry, ShardEntry};
use cm3flow_schemas::sample::Split;

use super::order::Permutation;

/// Number of blocks whose packs are mixed, and which a reader holds in memory at once.
pub(super) const GROUP_BLOCKS: u64 = 4;

/// Shards of a window, in order.
pub type WindowShards = Vec<ShardEntry>;

/// Blocks of one split of one window, by variant.
pub(super) struct Window(Vec<Blocks>);

/// Blocks that an epoch reads.
#[derive(Default)]
struct Blocks {
    shards: Vec<ShardEntry>,
    /// Shard and block index of every block.
    places: Vec<(u32, u32)>,
    packs: u64,
}

/// Place of a block in a shard.
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

    /// Returns the identity of the block.
    pub(super) const fn key(&self) -> (Digest, usize) {
        (self.shard, self.index)
    }
}

impl Window {
    pub(super) fn new(shards: WindowShards, split: Split) -> Self {
        let mut variants: Vec<Blocks> = Vec::new();
        for shard in shards.into_iter().filter(|shard| shard.split == split) {
            let variant = usize::from(shard.variant);
            variants.resize_with(variants.len().max(variant + 1), Blocks::default);
            variants[variant].push(shard);
        }
        Self(variants)
    }

    /// Returns the number of variants.
    pub(super) const fn variants(&self) -> usize {
        self.0.len()
    }

    /// Returns the number of packs of a variant; 0 if there is no such variant.
    pub(super) fn packs(&self, variant: usize) -> u64 {
        self.0.get(variant).map_or(0, |blocks| blocks.packs)
    }

    /// Returns the groups of a variant of this window, which has index `window`, in the order of `epoch`.
    pub(super) fn groups(&self, variant: usize, seed: u64, epoch: u64, window: usize) -> Groups {
        let key = order_key(seed, epoch, window);
        let none = Blocks::default();
        let blocks = self.0.get(variant).unwrap_or(&none);
        let count = blocks.places.len() as u64;
        let order = Permutation::new(count, &[&[b"blocks".as_slice(), &key].concat()]);
        let mut ends = Vec::with_capacity(blocks.places.len().div_ceil(GROUP_BLOCKS as usize));
        let mut end = 0;
        for place in 0..count {
            end += blocks.packs_of(order.at(place));
            if (place + 1) % GROUP_BLOCKS == 0 || place + 1 == count {
                ends.push(end);
            }
        }
        Groups { epoch, window, variant, order, ends, key: [b"packs".as_slice(), &key].concat() }
    }

    /// Iterates over the blocks of group `group`, in order.
    pub(super) fn group_blocks(&self, groups: &Groups, group: usize) -> impl Iterator<Item = BlockPlace> {
        let blocks = &self.0[groups.variant];
        let first = group as u64 * GROUP_BLOCKS;
        let end = (first + GROUP_BLOCKS).min(blocks.places.len() as u64);
        (first..end).map(move |place| {
            let (shard, index) = blocks.places[groups.order.at(place) as usize];
            BlockPlace::new(&blocks.shards[shard as usize], index as usize)
        })
    }
}

impl Blocks {
    fn push(&mut self, shard: ShardEntry) {
        let number = self.shards.len() as u32;
        self.places.extend((0..shard.blocks.len() as u32).map(|block| (number, block)));
        self.packs += shard.packs;
        self.shards.push(shard);
    }

    fn packs_of(&self, block: u64) -> u64 {
        let (shard, index) = self.places[block as usize];
        self.shards[shard as usize].blocks[index as usize].packs
    }
}

/// Order of a window's blocks in an epoch, and the number of packs up to the end of each group. It is computed once for an epoch and
/// window, since it visits every block.
pub(super) struct Groups {
    pub epoch: u64,
    pub window: usize,
    variant: usize,
    order: Permutation,
    ends: Vec<u64>,
    key: Vec<u8>,
}

impl Groups {
    pub(super) const fn count(&self) -> usize {
        self.ends.len()
    }

    /// Returns the index of the group with the `index`-th pack of the window.
    pub(super) fn group_of(&self, index: u64) -> usize {
        self.ends.partition_point(|end| *end <= index)
    }

    /// Returns the number of packs of the window before group `group`, and up to its end.
    pub(super) fn bounds(&self, group: usize) -> (u64, u64) {
        (if group == 0 { 0 } else { self.ends[group - 1] }, self.ends[group])
    }

    /// Returns the order of the packs of group `group`, counted over its blocks.
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
