//! One source of a reader: the windows of a version or run in order, and the pack at each place.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cm3flow_schemas::sample::Split;
use futures::future::BoxFuture;

use super::order::Permutation;
use super::packs::{PackBlock, PackRow};
use super::pool::BlockPool;
use super::window::{BlockPlace, Groups, Window, WindowShards};
use crate::error::{Result, StageError};

/// Number of window orders in memory: that of the present window and of the one read ahead.
const KEPT_ORDERS: usize = 2;

/// Feed of windows, as they are committed.
pub trait WindowFeed: Send {
    /// Returns the shards of window `index`, after waiting for its commit. `None` once the windows are complete.
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>>;

    /// Checks whether window `index` is known to be committed, so that [`Self::window`] need not wait for a run.
    fn has(&self, _index: usize) -> bool {
        false
    }
}

/// Packs of one split of a version or run, epoch after epoch.
pub(super) struct Source {
    feed: Box<dyn WindowFeed>,
    pool: BlockPool,
    split: Split,
    seed: u64,
    windows: Vec<Window>,
    /// Number of packs of those windows, by variant.
    packs: Vec<u64>,
    complete: bool,
    orders: VecDeque<Arc<Groups>>,
    group: Option<Group>,
    /// Waiting time since it was last taken.
    waited: Duration,
}

/// Group that is being read.
struct Group {
    /// Range of the group's places in the order of the source.
    first: u64,
    end: u64,
    order: Permutation,
    blocks: Vec<GroupBlock>,
}

struct GroupBlock {
    place: BlockPlace,
    /// Number of packs of the group up to the end of this block.
    end: u64,
    held: Option<Arc<PackBlock>>,
}

impl Source {
    pub(super) fn new(feed: Box<dyn WindowFeed>, pool: BlockPool, split: Split, seed: u64) -> Self {
        Self {
            feed,
            pool,
            split,
            seed,
            windows: Vec::new(),
            packs: Vec::new(),
            complete: false,
            orders: VecDeque::new(),
            group: None,
            waited: Duration::ZERO,
        }
    }

    /// Returns the pack at place `at`, counted over all epochs.
    pub(super) async fn pack(&mut self, at: u64) -> Result<PackRow> {
        if let Some(row) = self.at_hand(at) {
            return Ok(row);
        }
        let began = Instant::now();
        let row = self.fetch(at).await;
        self.waited += began.elapsed();
        row
    }

    /// Returns the waiting time since the last call.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Checks whether all windows are known.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns the number of packs of `epochs` epochs in the known windows. For more than one epoch it is meaningless until all windows are
    /// known.
    pub(super) fn packs_in(&self, epochs: u64) -> u64 {
        let variants = self.packs.len().max(1) as u64;
        let cycle: u64 = self.packs.iter().sum();
        cycle.saturating_mul(epochs / variants).saturating_add(self.packs.iter().take((epochs % variants) as usize).sum())
    }

    /// Returns the variant of the documents that `epoch` reads.
    const fn variant(&self, epoch: u64) -> usize {
        if self.packs.is_empty() { 0 } else { (epoch % self.packs.len() as u64) as usize }
    }

    /// Waits for the next window.
    pub(super) async fn learn(&mut self) -> Result<()> {
        match self.feed.window(self.windows.len()).await? {
            Some(shards) => {
                let window = Window::new(shards, self.split);
                self.packs.resize(self.packs.len().max(window.variants()), 0);
                self.packs.iter_mut().enumerate().for_each(|(variant, packs)| *packs += window.packs(variant));
                self.windows.push(window);
            }
            None => self.complete = true,
        }
        Ok(())
    }

    fn at_hand(&self, at: u64) -> Option<PackRow> {
        let group = self.group.as_ref().filter(|group| (group.first..group.end).contains(&at))?;
        let (block, row) = group.locate(at);
        Some(PackRow { block: Arc::clone(group.blocks[block].held.as_ref()?), row })
    }

    async fn fetch(&mut self, at: u64) -> Result<PackRow> {
        if !self.group.as_ref().is_some_and(|group| (group.first..group.end).contains(&at)) {
            self.enter(at).await?;
        }
        let group = self.group.as_mut().expect("it was just entered");
        let (block, row) = group.locate(at);
        let block = &mut group.blocks[block];
        let held = self.pool.block(&block.place).await?;
        block.held = Some(Arc::clone(&held));
        Ok(PackRow { block: held, row })
    }

    /// Enters the group of place `at`, and begins to fetch the blocks behind it.
    async fn enter(&mut self, at: u64) -> Result<()> {
        let (epoch, window, index) = self.place(at).await?;
        let groups = self.order(epoch, window);
        let number = groups.group_of(index);
        let (start, end) = groups.bounds(number);
        let mut packs = 0;
        let block = |place: BlockPlace| {
            packs += place.entry.packs;
            GroupBlock { place, end: packs, held: None }
        };
        let blocks = self.windows[window].group_blocks(&groups, number).map(block).collect();
        let first = at - (index - start);
        self.group = Some(Group { first, end: first + (end - start), order: groups.packs(number), blocks });
        let upcoming = self.upcoming(epoch, window, number).await?;
        self.pool.expect(&upcoming)
    }

    /// Returns epoch, window and index within the window of a place.
    async fn place(&mut self, at: u64) -> Result<(u64, usize, u64)> {
        while at >= self.packs_in(1) && !self.complete {
            self.learn().await?;
        }
        let cycle: u64 = self.packs.iter().sum();
        if cycle == 0 {
            return Err(StageError::NoPacks { split: self.split.name() });
        }
        let (mut epoch, mut index) = (at / cycle * self.packs.len() as u64, at % cycle);
        while index >= self.packs[self.variant(epoch)] {
            index -= self.packs[self.variant(epoch)];
            epoch += 1;
        }
        let variant = self.variant(epoch);
        for (number, window) in self.windows.iter().enumerate() {
            let packs = window.packs(variant);
            if index < packs {
                return Ok((epoch, number, index));
            }
            index -= packs;
        }
        unreachable!("the index is below the sum of the windows' packs")
    }

    fn order(&mut self, epoch: u64, window: usize) -> Arc<Groups> {
        if let Some(found) = self.orders.iter().find(|groups| (groups.epoch, groups.window) == (epoch, window)) {
            return Arc::clone(found);
        }
        let groups = Arc::new(self.windows[window].groups(self.variant(epoch), self.seed, epoch, window));
        if self.orders.len() == KEPT_ORDERS {
            self.orders.pop_front();
        }
        self.orders.push_back(Arc::clone(&groups));
        groups
    }

    /// Returns the blocks from a group on, in order, as many as are to be fetched ahead: at least those of the group itself, and none
    /// twice.
    async fn upcoming(&mut self, mut epoch: u64, mut window: usize, mut group: usize) -> Result<Vec<BlockPlace>> {
        let mut places: Vec<BlockPlace> = Vec::new();
        let mut bytes = 0;
        loop {
            let groups = self.order(epoch, window);
            while group < groups.count() {
                let blocks: Vec<BlockPlace> = self.windows[window].group_blocks(&groups, group).collect();
                bytes += blocks.iter().map(|place| place.entry.body_bytes).sum::<u64>();
                let begins_again = blocks.iter().any(|block| places.iter().any(|place| place.key() == block.key()));
                if !places.is_empty() && (bytes > self.pool.ahead() || begins_again) {
                    return Ok(places);
                }
                places.extend(blocks);
                group += 1;
            }
            (window, group) = (window + 1, 0);
            if window == self.windows.len() {
                if !self.complete && self.feed.has(window) {
                    self.learn().await?;
                }
                match (window == self.windows.len(), self.complete) {
                    (true, true) => (epoch, window) = (epoch + 1, 0),
                    (true, false) => return Ok(places),
                    (false, _) => {}
                }
            }
        }
    }
}

impl Group {
    /// Returns block and row of the pack at place `at`, which must lie in the group.
    fn locate(&self, at: u64) -> (usize, usize) {
        let pack = self.order.at(at - self.first);
        let mut start = 0;
        for (number, block) in self.blocks.iter().enumerate() {
            if pack < block.end {
                return (number, (pack - start) as usize);
            }
            start = block.end;
        }
        unreachable!("the order has as many packs as the group's blocks")
    }
}
