//! A reader of several sources under a schedule of weights, pack by pack.

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

/// What a source is read from.
pub struct SourceInput {
    /// Which windows there are.
    pub feed: Box<dyn WindowFeed>,
    /// Where its shards lie.
    pub origin: Origin,
    /// Schema of its packs, [`cm3flow_schemas::columns::pack`].
    pub schema: SchemaRef,
    /// The split that is read.
    pub split: Split,
    /// Memory for its blocks.
    pub limits: PoolLimits,
}

/// Reads packs of the sources of a [`Schedule`]. At every position the schedule says which source is read; each source gives its packs in
/// an order of its own, a function of the seed and of how many of it were read before.
pub struct MixReader {
    sources: Vec<Source>,
    schedule: Schedule,
    position: u64,
    counters: Vec<u64>,
    /// Counters of sources that are no longer read.
    parked: BTreeMap<String, u64>,
}

impl MixReader {
    /// A reader at position 0 of `inputs`, one for each source of `schedule` in its order. Fetches run on `runtime`.
    ///
    /// # Panics
    /// If their numbers differ.
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

    /// Packs handed out or skipped so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The pack at the present position; the reader moves behind it. After an error it stands where it stood.
    ///
    /// # Errors
    /// What feed or store say, [`StageError::Block`](crate::StageError::Block) for damage, [`StageError::NoPacks`](crate::StageError::NoPacks).
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

    /// Where the reader stands.
    #[must_use]
    pub fn state(&self) -> MixState {
        self.state_of(self.position, &self.counters)
    }

    /// Where it would stand behind the next `packs`.
    pub(super) fn state_behind(&self, packs: u64) -> MixState {
        let mut counters = self.counters.clone();
        self.schedule.clone().count(self.position, self.position + packs, &mut counters);
        self.state_of(self.position + packs, &counters)
    }

    fn state_of(&self, position: u64, counters: &[u64]) -> MixState {
        let counters = self.schedule.names().iter().cloned().zip(counters.iter().copied());
        let counters = self.parked.iter().map(|(name, count)| (name.clone(), *count)).chain(counters);
        // A source that was not read yet needs no place.
        let counters = counters.filter(|(_, count)| *count > 0).collect();
        MixState::new(position, counters, self.schedule.id(), self.schedule.seed())
    }

    /// Goes on from `state`, which another schedule may have reached: its counters hold, and the weights of this schedule from its position
    /// on.
    ///
    /// # Errors
    /// [`StageError::ReaderState`](crate::StageError::ReaderState) for a state of another seed, a damaged one, or one with too many sources.
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

    /// Goes to `position` of this schedule, as if all packs before it had been read under it.
    pub fn seek(&mut self, position: u64) {
        self.counters.fill(0);
        self.parked.clear();
        self.position = 0;
        self.skip(position);
    }

    /// Whether all sources together hold at least `packs` packs in `epochs` epochs; waits for windows as long as that is open.
    ///
    /// # Errors
    /// What the feeds say.
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

    /// Packs of all sources together in `epochs` epochs; waits for all windows unless there are no epochs.
    ///
    /// # Errors
    /// What the feeds say.
    pub(super) async fn total(&mut self, epochs: u64) -> Result<u64> {
        while let Some(growing) = self.sources.iter_mut().find(|source| epochs > 0 && !source.is_complete()) {
            growing.learn().await?;
        }
        Ok(self.packs_in(epochs))
    }

    /// As [`Self::total`], if all windows are known.
    pub(super) fn known_total(&self, epochs: u64) -> Option<u64> {
        self.sources.iter().all(Source::is_complete).then(|| self.packs_in(epochs))
    }

    /// Packs of `epochs` epochs in the windows that are known.
    fn packs_in(&self, epochs: u64) -> u64 {
        self.sources.iter().map(|source| source.packs_in(epochs)).fold(0, u64::saturating_add)
    }

    /// Takes the time that was spent waiting for blocks and windows since it was last taken.
    pub(super) fn take_waited(&mut self) -> Duration {
        self.sources.iter_mut().map(Source::take_waited).sum()
    }
}
