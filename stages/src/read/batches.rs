//! Batches of one rank and worker: a slice of the global batches that all ranks read together.
//!
//! A global batch is `world_size * batch_size` consecutive positions. Rank `r` has the `r`-th `batch_size` of them, so every rank gets the
//! same number of packs. Worker `w` of `n` has every `n`-th batch of its rank, from the `w`-th on. A loader that asks its workers in turn
//! restores the order. Nothing else depends on ranks and workers. A reader with an end reads one pass ([`super::passes`]).

use tokio::runtime::Handle;

use super::mixed::MixReader;
use super::packs::PackRow;
use super::passes::{Begin, Passes};
use super::stall::Stalls;
use super::state::MixState;
use crate::error::{Result, StageError};

/// Part of each global batch that a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Number of packs in a batch, at least 1.
    pub batch_size: u64,
    /// Index of this rank, below `world_size`.
    pub rank: u64,
    /// Number of ranks, at least 1.
    pub world_size: u64,
    /// Index of this worker in its rank, below `workers`.
    pub worker: u64,
    /// Number of workers of each rank, at least 1.
    pub workers: u64,
}

/// Behaviour at the end of a pass. A pass reads a number of epochs; those of pass `n` follow those of pass `n - 1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// Epochs follow each other without end and without gaps.
    #[default]
    Repeat,
    /// Packs that do not fill a last global batch are left out.
    Drop {
        /// Number of epochs in a pass.
        epochs: u64,
    },
    /// Packs of the next epoch fill up the last global batch; the next pass reads them too.
    Pad {
        /// Number of epochs in a pass.
        epochs: u64,
    },
}

/// A batch of packs, with the state behind it.
#[derive(Debug)]
pub struct RowBatch {
    /// Packs of the batch.
    pub rows: Vec<PackRow>,
    /// State of all ranks and workers after this global batch. Packs that only fill it up do not count.
    pub state: MixState,
    /// `true` if this is known to be the last global batch of the pass.
    pub is_last: bool,
}

/// Reader of the batches of a [`Slice`].
pub struct BatchReader {
    mix: MixReader,
    slice: Slice,
    end: End,
    runtime: Handle,
    stalls: Stalls,
    /// Place to begin at, until reading has begun.
    start: Option<Start>,
    /// Index of the present pass.
    pass: u64,
    /// State before the batch that is being read.
    before: Option<MixState>,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    begin: Begin,
    /// Number of packs between the place to begin at and the worker's first batch.
    skipped: u64,
}

impl Slice {
    /// Returns the slice of all packs, in batches of `batch_size`.
    #[must_use]
    pub const fn whole(batch_size: u64) -> Self {
        Self { batch_size, rank: 0, world_size: 1, worker: 0, workers: 1 }
    }

    /// Returns the number of packs in a batch of all ranks.
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
    /// Returns the passes over global batches of so many packs.
    const fn passes(self, global_batch: u64) -> Option<Passes> {
        match self {
            Self::Repeat => None,
            Self::Drop { epochs } => Some(Passes { epochs, least: global_batch }),
            Self::Pad { epochs } => Some(Passes { epochs, least: 1 }),
        }
    }
}

impl BatchReader {
    /// Reads the part `slice` of `mix` from position 0 on. Its methods block on `runtime`, so they must be called outside of it.
    ///
    /// # Errors
    /// [`StageError::Slice`] for numbers out of range.
    pub fn try_new(mix: MixReader, slice: Slice, end: End, runtime: Handle) -> Result<Self> {
        slice.check()?;
        let start = Start { begin: Begin::Here, skipped: slice.worker * slice.global_batch() };
        Ok(Self { mix, slice, end, runtime, stalls: Stalls::default(), start: Some(start), pass: 0, before: None })
    }

    /// Continues behind the global batch of `state`, from any rank or worker. It stays in the pass of that batch; if nothing is left of
    /// that pass and `or_next` is set, it begins the next one.
    ///
    /// # Errors
    /// As for [`MixReader::restore`].
    pub fn restore(&mut self, state: &MixState, or_next: bool) -> Result<()> {
        self.mix.restore(state)?;
        let begin = if or_next { Begin::HereOrNext } else { Begin::Here };
        self.start = Some(Start { begin, skipped: self.slice.worker * self.slice.global_batch() });
        Ok(())
    }

    /// Begins pass `pass`, or continues at the present position if that lies inside. A reader without end has one pass, and does not
    /// change.
    pub const fn begin_pass(&mut self, pass: u64) {
        if let Some(start) = &mut self.start {
            start.begin = Begin::Pass(pass);
        }
    }

    /// Continues behind the last batch that this same worker read, given the state of that batch.
    ///
    /// # Errors
    /// As for [`MixReader::restore`].
    pub fn restore_behind_own(&mut self, last: &MixState) -> Result<()> {
        self.mix.restore(last)?;
        self.start = Some(Start { begin: Begin::Here, skipped: (self.slice.workers - 1) * self.slice.global_batch() });
        Ok(())
    }

    /// Continues at this same worker's own position in pass `pass`, given its [`Self::worker_state`].
    ///
    /// # Errors
    /// As for [`MixReader::restore`].
    pub fn restore_worker(&mut self, next: &MixState, pass: u64) -> Result<()> {
        self.mix.restore(next)?;
        self.start = Some(Start { begin: Begin::Inside(pass), skipped: 0 });
        Ok(())
    }

    /// Returns the state of this worker alone, after its first read.
    #[must_use]
    pub fn worker_state(&self) -> MixState {
        self.mix.state()
    }

    /// Returns the index of the present pass, from 0 on, once reading has begun; `None` for a reader without end.
    #[must_use]
    pub const fn pass(&self) -> Option<u64> {
        match self.end {
            End::Repeat => None,
            End::Drop { .. } | End::Pad { .. } => Some(self.pass),
        }
    }

    /// Returns the number of batches of each rank in the whole present or coming pass; `None` for a reader without end.
    ///
    /// # Errors
    /// Those of the feeds.
    pub async fn pass_batches(&mut self) -> Result<Option<u64>> {
        self.begin().await?;
        let Some(passes) = self.passes() else { return Ok(None) };
        let packs = self.mix.total(passes.end(self.pass)).await? - self.mix.total(self.pass.saturating_mul(passes.epochs)).await?;
        let global_batch = self.slice.global_batch();
        Ok(Some(if matches!(self.end, End::Drop { .. }) { packs / global_batch } else { packs.div_ceil(global_batch) }))
    }

    /// Returns the next batch; `None` at the end. After an error the reader keeps its position, and can be asked again.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn next_batch(&mut self) -> Result<Option<RowBatch>> {
        let runtime = self.runtime.clone();
        let batch = runtime.block_on(self.read());
        if batch.is_err() {
            self.undo()?;
        }
        batch
    }

    /// Reads the next batch like [`Self::next_batch`], for asynchronous callers. After an error, or if the future is dropped early, the
    /// position is undefined until [`Self::undo`] restores it.
    ///
    /// # Errors
    /// As for [`MixReader::pack`]; [`StageError::Slice`] for a pass without batches; [`StageError::ReaderState`] for a pass before the
    /// restored state.
    pub async fn read(&mut self) -> Result<Option<RowBatch>> {
        self.begin().await?;
        self.before = Some(self.mix.state());
        let batch = self.read_here().await?;
        self.before = None;
        Ok(batch)
    }

    /// Restores the position before a batch that failed.
    ///
    /// # Errors
    /// As for [`MixReader::restore`].
    pub fn undo(&mut self) -> Result<()> {
        self.before.take().map_or(Ok(()), |before| self.mix.restore(&before))
    }

    /// Returns the waiting times of batches for blocks and windows.
    #[must_use]
    pub const fn stalls(&self) -> &Stalls {
        &self.stalls
    }

    const fn passes(&self) -> Option<Passes> {
        self.end.passes(self.slice.global_batch())
    }

    /// Moves to the place to begin at. Changes nothing before that place is known.
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

    /// Returns the state at the end of the pass, which is known and lies behind `position`.
    fn state_at_end(&self, position: u64) -> Option<MixState> {
        let end = self.mix.known_total(self.passes()?.end(self.pass))?;
        Some(self.mix.state_behind(end - position))
    }

    /// Refuses a pass without any batch, which means that its numbers were chosen badly.
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
