//! Reader of several sources under a schedule of weights, pack by pack.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use cm3flow_schemas::sample::Split;
use tokio::runtime::Handle;

use super::mix::Schedule;
use super::packs::PackRow;
use super::pool::{BlockPool, Origin, PoolLimits};
use super::source::{Source, WindowFeed};
use super::state::MixState;
use crate::error::Result;

/// Input of a source.
pub struct SourceInput {
    /// Feed of the windows.
    pub feed: Box<dyn WindowFeed>,
    /// Place of the shards.
    pub origin: Origin,
    /// Schema of the packs, [`cm3flow_schemas::columns::pack`].
    pub schema: SchemaRef,
    /// Split to read.
    pub split: Split,
    /// Memory for the blocks.
    pub limits: PoolLimits,
}

/// Reader of the sources of a [`Schedule`]. At every position the schedule chooses the source. Each source gives its packs in its own
/// order, which depends on the seed and on the number of its packs read before.
pub struct MixReader {
    sources: Vec<Source>,
    schedule: Schedule,
    position: u64,
    counters: Vec<u64>,
    /// Counters of sources that are no longer read.
    parked: BTreeMap<String, u64>,
}

impl MixReader {
    /// Begins at position 0 of `inputs`, one for each source of `schedule` in its order. Fetches run on `runtime`.
    ///
    /// # Panics
    /// If the numbers of inputs and sources differ.
    #[must_use]
    pub fn new(inputs: Vec<SourceInput>, schedule: Schedule, runtime: &Handle) -> Self {
        assert_eq!(inputs.len(), schedule.names().len(), "each source of the schedule has an input");
        let seed = schedule.seed();
        let source = |input: SourceInput| {
            let pool = BlockPool::new(input.origin, input.schema, input.limits, runtime.clone());
            Source::new(input.feed, pool, input.split, seed)
        };
        let sources: Vec<Source> = inputs.into_iter().map(source).collect();
        let counters = vec![0; sources.len()];
        Self { sources, schedule, position: 0, counters, parked: BTreeMap::new() }
    }

    /// Returns the number of packs handed out or skipped so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Returns the pack at the present position, and moves behind it. After an error the position is unchanged.
    ///
    /// # Errors
    /// Those of feed and store, [`StageError::Block`](crate::StageError::Block) for damage,
    /// [`StageError::NoPacks`](crate::StageError::NoPacks).
    pub async fn pack(&mut self) -> Result<PackRow> {
        let number = self.schedule.source_at(self.position);
        let row = self.sources[number].pack(self.counters[number]).await?;
        self.counters[number] += 1;
        self.position += 1;
        Ok(row)
    }

    /// Moves behind the next `packs` without reading them.
    pub fn skip(&mut self, packs: u64) {
        self.schedule.count(self.position, self.position + packs, &mut self.counters);
        self.position += packs;
    }

    /// Returns the present state.
    #[must_use]
    pub fn state(&self) -> MixState {
        self.state_of(self.position, &self.counters)
    }

    /// Returns the state behind the next `packs`.
    pub(super) fn state_behind(&self, packs: u64) -> MixState {
        let mut counters = self.counters.clone();
        self.schedule.clone().count(self.position, self.position + packs, &mut counters);
        self.state_of(self.position + packs, &counters)
    }

    fn state_of(&self, position: u64, counters: &[u64]) -> MixState {
        let counters = self.schedule.names().iter().cloned().zip(counters.iter().copied());
        let counters = self.parked.iter().map(|(name, count)| (name.clone(), *count)).chain(counters);
        // A source without packs read needs no entry.
        let counters = counters.filter(|(_, count)| *count > 0).collect();
        MixState::new(position, counters, self.schedule.id(), self.schedule.seed())
    }

    /// Continues from `state`, which may come from another schedule. Its counters are kept, and from its position on the weights of this
    /// schedule apply.
    ///
    /// # Errors
    /// [`StageError::ReaderState`](crate::StageError::ReaderState) for a state that is damaged, of another seed, or with too many sources.
    pub fn restore(&mut self, state: &MixState) -> Result<()> {
        state.check(self.schedule.seed())?;
        let mut counters = state.counters.clone();
        let own: Vec<u64> = self.schedule.names().iter().map(|name| counters.remove(name).unwrap_or_default()).collect();
        let before = std::mem::replace(&mut self.parked, counters);
        let position = std::mem::replace(&mut self.position, state.position);
        let own = std::mem::replace(&mut self.counters, own);
        let remembered: BTreeMap<String, u64> =
            self.schedule.names().iter().map(|name| (name.clone(), 0)).chain(self.parked.clone()).collect();
        let fits = MixState::new(0, remembered, "", 0).check_room();
        if fits.is_err() {
            (self.parked, self.position, self.counters) = (before, position, own);
        }
        fits
    }

    /// Moves to `position` of this schedule, as if it had applied to all packs before.
    pub fn seek(&mut self, position: u64) {
        self.counters.fill(0);
        self.parked.clear();
        self.position = 0;
        self.skip(position);
    }

    /// Checks whether all sources together have at least `packs` packs in `epochs` epochs. Waits for windows until this is certain.
    ///
    /// # Errors
    /// Those of the feeds.
    pub(super) async fn holds(&mut self, packs: u64, epochs: u64) -> Result<bool> {
        loop {
            let (one, all) = (self.packs_in(1), self.packs_in(epochs));
            let Some(growing) = self.sources.iter_mut().find(|source| !source.is_complete()) else {
                return Ok(packs <= all);
            };
            if packs <= one {
                return Ok(true);
            }
            growing.learn().await?;
        }
    }

    /// Returns the number of packs of all sources in `epochs` epochs. Waits for all windows, unless there are no epochs.
    ///
    /// # Errors
    /// Those of the feeds.
    pub(super) async fn total(&mut self, epochs: u64) -> Result<u64> {
        while let Some(growing) = self.sources.iter_mut().find(|source| epochs > 0 && !source.is_complete()) {
            growing.learn().await?;
        }
        Ok(self.packs_in(epochs))
    }

    /// Returns [`Self::total`] if all windows are known.
    pub(super) fn known_total(&self, epochs: u64) -> Option<u64> {
        self.sources.iter().all(Source::is_complete).then(|| self.packs_in(epochs))
    }

    /// Returns the number of packs of `epochs` epochs in the known windows.
    fn packs_in(&self, epochs: u64) -> u64 {
        self.sources.iter().map(|source| source.packs_in(epochs)).fold(0, u64::saturating_add)
    }

    /// Returns the time spent waiting for blocks and windows since the last call.
    pub(super) fn take_waited(&mut self) -> Duration {
        self.sources.iter_mut().map(Source::take_waited).sum()
    }
}
