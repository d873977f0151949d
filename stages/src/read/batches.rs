//! Batches of one rank and worker: a slice of the global batches that all ranks together read.
//!
//! A global batch is `world_size * batch_size` consecutive positions; rank `r` has the `r`-th `batch_size` of them, so every rank gets the
//! same number of packs. Worker `w` of `n` has every `n`-th batch of its rank from the `w`-th on, which a loader that asks its workers in
//! turn puts back into order. Nothing else depends on ranks and workers. A reader with an end reads one pass ([`super::passes`]).

use tokio::runtime::Handle;

use super::mixed::MixReader;
use super::packs::PackRow;
use super::passes::{Begin, Passes};
use super::stall::Stalls;
use super::state::MixState;
use crate::error::{Result, StageError};

/// Which packs of a global batch are read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Packs of a batch, at least 1.
    pub batch_size: u64,
    /// This rank, below `world_size`.
    pub rank: u64,
    /// Number of ranks, at least 1.
    pub world_size: u64,
    /// This worker of the rank, below `workers`.
    pub worker: u64,
    /// Number of workers of each rank, at least 1.
    pub workers: u64,
}

/// What happens when all packs of a pass were read. A pass reads so many epochs; those of pass `n` come behind those of pass `n - 1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// Epochs follow each other without end, and without a gap between them.
    #[default]
    Repeat,
    /// Packs that do not fill a last global batch are left out.
    Drop {
        /// Number of epochs of a pass.
        epochs: u64,
    },
    /// The last global batch is filled up with packs of the epoch behind them, which the next pass reads as well.
    Pad {
        /// Number of epochs of a pass.
        epochs: u64,
    },
}

/// A batch.
#[derive(Debug)]
pub struct RowBatch {
    /// Its packs.
    pub rows: Vec<PackRow>,
    /// Where all ranks and workers stand once this global batch was trained on; packs that only fill it up do not count.
    pub state: MixState,
    /// Whether it is known to be the last global batch of the pass.
    pub is_last: bool,
}

/// Reads the batches of a [`Slice`].
pub struct BatchReader {
    mix: MixReader,
    slice: Slice,
    end: End,
    runtime: Handle,
    stalls: Stalls,
    /// How reading begins, until it has begun.
    start: Option<Start>,
    /// The pass that is read.
    pass: u64,
    /// Where the reader stood before the batch that is being read.
    before: Option<MixState>,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    begin: Begin,
    /// Packs between the place to begin at and the worker's first batch.
    skipped: u64,
}

impl Slice {
    /// All packs, in batches of `batch_size`.
    #[must_use]
    pub const fn whole(batch_size: u64) -> Self {
        Self { batch_size, rank: 0, world_size: 1, worker: 0, workers: 1 }
    }

    /// Packs of a batch of all ranks.
    #[must_use]
    pub const fn global_batch(&self) -> u64 {
        self.batch_size * self.world_size
    }

    fn check(&self) -> Result<()> {
        let at_least_one = [("batch_size", self.batch_size), ("world_size", self.world_size), ("workers", self.workers)];
        if let Some((name, _)) = at_least_one.iter().find(|(_, number)| *number == 0) {
            return Err(StageError::Slice { problem: format!("{name} must be at least 1, got 0") });
        }
        for (name, number, of, all) in
            [("rank", self.rank, "world_size", self.world_size), ("worker", self.worker, "workers", self.workers)]
        {
            if number >= all {
                return Err(StageError::Slice { problem: format!("{name} must be below {of} = {all}, got {number}") });
            }
        }
        Ok(())
    }
}

impl End {
    /// Passes of global batches of so many packs.
    const fn passes(self, global_batch: u64) -> Option<Passes> {
        match self {
            Self::Repeat => None,
            Self::Drop { epochs } => Some(Passes { epochs, least: global_batch }),
            Self::Pad { epochs } => Some(Passes { epochs, least: 1 }),
        }
    }
}

impl BatchReader {
    /// Reads what is `slice` of `mix` from position 0 on. Its methods block on `runtime`, so they must be called outside of it.
    ///
    /// # Errors
    /// [`StageError::Slice`] for numbers that make no sense.
    pub fn try_new(mix: MixReader, slice: Slice, end: End, runtime: Handle) -> Result<Self> {
        slice.check()?;
        let start = Start { begin: Begin::Here, skipped: slice.worker * slice.global_batch() };
        Ok(Self { mix, slice, end, runtime, stalls: Stalls::default(), start: Some(start), pass: 0, before: None })
    }

    /// Goes on behind the global batch of `state`, whichever rank or worker it came from: in the pass that it lies in, or with the next one if
    /// nothing is left of that and `or_next`.
    ///
    /// # Errors
    /// As [`MixReader::restore`].
    pub fn restore(&mut self, state: &MixState, or_next: bool) -> Result<()> {
        self.mix.restore(state)?;
        let begin = if or_next { Begin::HereOrNext } else { Begin::Here };
        self.start = Some(Start { begin, skipped: self.slice.worker * self.slice.global_batch() });
        Ok(())
    }

    /// Begins with a pass, or goes on where the reader stands if that is inside of it. A reader without end has one pass, and does not change.
    pub const fn begin_pass(&mut self, pass: u64) {
        if let Some(start) = &mut self.start {
            start.begin = Begin::Pass(pass);
        }
    }

    /// Goes on behind the last batch that this very worker read, from the state of that.
    ///
    /// # Errors
    /// As [`MixReader::restore`].
    pub fn restore_behind_own(&mut self, last: &MixState) -> Result<()> {
        self.mix.restore(last)?;
        self.start = Some(Start { begin: Begin::Here, skipped: (self.slice.workers - 1) * self.slice.global_batch() });
        Ok(())
    }

    /// Goes on where this very worker stood, in pass `pass`: from its [`Self::worker_state`].
    ///
    /// # Errors
    /// As [`MixReader::restore`].
    pub fn restore_worker(&mut self, next: &MixState, pass: u64) -> Result<()> {
        self.mix.restore(next)?;
        self.start = Some(Start { begin: Begin::Inside(pass), skipped: 0 });
        Ok(())
    }

    /// Where this worker alone stands, once it has read something.
    #[must_use]
    pub fn worker_state(&self) -> MixState {
        self.mix.state()
    }

    /// The pass that is read, from 0 on, once reading has begun; `None` for a reader without end.
    #[must_use]
    pub const fn pass(&self) -> Option<u64> {
        match self.end {
            End::Repeat => None,
            End::Drop { .. } | End::Pad { .. } => Some(self.pass),
        }
    }

    /// Batches of each rank in the whole pass that is read or about to be; `None` for a reader without end.
    ///
    /// # Errors
    /// What the feeds say.
    pub async fn pass_batches(&mut self) -> Result<Option<u64>> {
        self.begin().await?;
        let Some(passes) = self.passes() else { return Ok(None) };
        let packs = self.mix.total(passes.end(self.pass)).await? - self.mix.total(self.pass.saturating_mul(passes.epochs)).await?;
        let global_batch = self.slice.global_batch();
        Ok(Some(if matches!(self.end, End::Drop { .. }) { packs / global_batch } else { packs.div_ceil(global_batch) }))
    }

    /// The next batch; `None` at the end. After an error the reader stands where it stood, and can be asked again.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn next_batch(&mut self) -> Result<Option<RowBatch>> {
        let runtime = self.runtime.clone();
        let batch = runtime.block_on(self.read());
        if batch.is_err() {
            self.undo()?;
        }
        batch
    }

    /// The next batch, as [`Self::next_batch`], for callers that wait themselves. After an error, or if it is dropped before its end, the
    /// reader stands anywhere: [`Self::undo`] takes it back to where it stood.
    ///
    /// # Errors
    /// As [`MixReader::pack`]; [`StageError::Slice`] for a pass that has no batch, [`StageError::ReaderState`] for one that lies before the state
    /// that was loaded.
    pub async fn read(&mut self) -> Result<Option<RowBatch>> {
        self.begin().await?;
        self.before = Some(self.mix.state());
        let batch = self.read_here().await?;
        self.before = None;
        Ok(batch)
    }

    /// Takes the reader back to where it stood before a batch that did not come.
    ///
    /// # Errors
    /// As [`MixReader::restore`].
    pub fn undo(&mut self) -> Result<()> {
        self.before.take().map_or(Ok(()), |before| self.mix.restore(&before))
    }

    /// How long batches waited for blocks and windows.
    #[must_use]
    pub const fn stalls(&self) -> &Stalls {
        &self.stalls
    }

    const fn passes(&self) -> Option<Passes> {
        self.end.passes(self.slice.global_batch())
    }

    /// Goes to the place to begin at. Changes nothing before it knows that place.
    async fn begin(&mut self) -> Result<()> {
        let Some(Start { begin, skipped }) = self.start else { return Ok(()) };
        let at = self.mix.position();
        let (pass, from) = match self.passes() {
            None => (0, at),
            Some(passes) => passes.find(&mut self.mix, at, begin).await?,
        };
        self.mix.skip(from - at + skipped);
        (self.pass, self.start) = (pass, None);
        Ok(())
    }

    async fn read_here(&mut self) -> Result<Option<RowBatch>> {
        let Slice { batch_size, rank, world_size, workers, .. } = self.slice;
        let (global_batch, position) = (self.slice.global_batch(), self.mix.position());
        let next = position + global_batch;
        if let Some(passes) = self.passes()
            && !self.mix.holds(position + passes.least, passes.end(self.pass)).await?
        {
            self.check_not_empty(passes)?;
            return Ok(None);
        }
        // Every rank waits until it is known how much of the last global batch belongs to the pass.
        let kept = match self.end {
            End::Pad { epochs } if !self.mix.holds(next, (self.pass + 1).saturating_mul(epochs)).await? => self.state_at_end(position),
            _ => None,
        };
        self.mix.skip(rank * batch_size);
        let mut rows = Vec::with_capacity(batch_size as usize);
        for _ in 0..batch_size {
            rows.push(self.mix.pack().await?);
        }
        self.mix.skip((world_size - 1 - rank) * batch_size);
        let state = kept.unwrap_or_else(|| self.mix.state());
        let total = self.passes().and_then(|passes| Some((self.mix.known_total(passes.end(self.pass))?, passes.least)));
        let is_last = total.is_some_and(|(total, least)| total < next + least);
        self.mix.skip((workers - 1) * global_batch);
        self.stalls.record(self.mix.take_waited());
        Ok(Some(RowBatch { rows, state, is_last }))
    }

    /// The state at the end of the pass, which is known and lies behind `position`.
    fn state_at_end(&self, position: u64) -> Option<MixState> {
        let end = self.mix.known_total(self.passes()?.end(self.pass))?;
        Some(self.mix.state_behind(end - position))
    }

    /// A pass that gives nothing at all is a mistake of whoever chose its numbers.
    fn check_not_empty(&self, passes: Passes) -> Result<()> {
        let begins = self.mix.known_total(self.pass.saturating_mul(passes.epochs));
        let (Some(begins), Some(ends)) = (begins, self.mix.known_total(passes.end(self.pass))) else { return Ok(()) };
        if ends - begins >= passes.least {
            return Ok(());
        }
        let (packs, wanted) = (ends - begins, self.slice.global_batch());
        let problem = format!(
            "there are {packs} packs to read until the end, and a global batch (batch_size * world_size) takes {wanted}; read smaller batches, \
             end=\"pad\" or another split"
        );
        Err(StageError::Slice { problem })
    }
}
