//! Batches of one rank and worker: a slice of the global batches that all ranks together read.
//!
//! A global batch is `world_size * batch_size` consecutive positions; rank `r` has the `r`-th `batch_size` of them, so every rank gets the
//! same number of packs. Worker `w` of `n` has every `n`-th batch of its rank from the `w`-th on, which a loader that asks its workers in
//! turn puts back into order. Nothing else depends on ranks and workers.

use tokio::runtime::Handle;

use super::mixed::MixReader;
use super::packs::PackRow;
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

/// What happens when all packs were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// Epochs follow each other without end, and without a gap between them.
    #[default]
    Repeat,
    /// So many epochs are read; packs that do not fill a last global batch are left out.
    Drop {
        /// Number of epochs.
        epochs: u64,
    },
    /// So many epochs are read; the last global batch is filled up with packs of the epoch behind them.
    Pad {
        /// Number of epochs.
        epochs: u64,
    },
}

/// A batch.
#[derive(Debug)]
pub struct RowBatch {
    /// Its packs.
    pub rows: Vec<PackRow>,
    /// Where all ranks and workers stand once this global batch was trained on.
    pub state: MixState,
}

/// Reads the batches of a [`Slice`].
pub struct BatchReader {
    mix: MixReader,
    slice: Slice,
    end: End,
    runtime: Handle,
    stalls: Stalls,
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

impl BatchReader {
    /// Reads what is `slice` of `mix` from position 0 on. Its methods block on `runtime`, so they must be called outside of it.
    ///
    /// # Errors
    /// [`StageError::Slice`] for numbers that make no sense.
    pub fn try_new(mix: MixReader, slice: Slice, end: End, runtime: Handle) -> Result<Self> {
        slice.check()?;
        let mut reader = Self { mix, slice, end, runtime, stalls: Stalls::default() };
        reader.mix.skip(slice.worker * slice.global_batch());
        Ok(reader)
    }

    /// Goes on behind the global batch of `state`, whichever rank or worker it came from.
    ///
    /// # Errors
    /// As [`MixReader::restore`].
    pub fn restore(&mut self, state: &MixState) -> Result<()> {
        self.mix.restore(state)?;
        self.mix.skip(self.slice.worker * self.slice.global_batch());
        Ok(())
    }

    /// Goes on where this very worker stood: from its [`Self::worker_state`].
    ///
    /// # Errors
    /// As [`MixReader::restore`].
    pub fn restore_worker(&mut self, next: &MixState) -> Result<()> {
        self.mix.restore(next)
    }

    /// Where this worker alone stands.
    #[must_use]
    pub fn worker_state(&self) -> MixState {
        self.mix.state()
    }

    /// The next batch; `None` at the end. After an error the reader stands where it stood, and can be asked again.
    ///
    /// # Errors
    /// As [`MixReader::pack`].
    pub fn next_batch(&mut self) -> Result<Option<RowBatch>> {
        let runtime = self.runtime.clone();
        let before = self.mix.state();
        let batch = runtime.block_on(self.read());
        if batch.is_err() {
            self.mix.restore(&before)?;
        }
        batch
    }

    /// The next batch, as [`Self::next_batch`], for callers that wait themselves. After an error, or if it is dropped before its end, the
    /// reader stands anywhere: [`Self::restore_worker`] takes it back to where it stood.
    ///
    /// # Errors
    /// As [`MixReader::pack`].
    pub async fn read(&mut self) -> Result<Option<RowBatch>> {
        let Slice { batch_size, rank, world_size, workers, .. } = self.slice;
        let (global_batch, position) = (self.slice.global_batch(), self.mix.position());
        let goes_on = match self.end {
            End::Repeat => true,
            End::Drop { epochs } => self.mix.holds(position + global_batch, epochs).await?,
            End::Pad { epochs } => self.mix.holds(position + 1, epochs).await?,
        };
        if !goes_on {
            return Ok(None);
        }
        self.mix.skip(rank * batch_size);
        let mut rows = Vec::with_capacity(batch_size as usize);
        for _ in 0..batch_size {
            rows.push(self.mix.pack().await?);
        }
        self.mix.skip((world_size - 1 - rank) * batch_size);
        let state = self.mix.state();
        self.mix.skip((workers - 1) * global_batch);
        self.stalls.record(self.mix.take_waited());
        Ok(Some(RowBatch { rows, state }))
    }

    /// How long batches waited for blocks and windows.
    #[must_use]
    pub const fn stalls(&self) -> &Stalls {
        &self.stalls
    }
}
