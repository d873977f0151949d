//! State of a reader: small, plain JSON, valid for any number of ranks and workers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};

/// Version of this format.
const FORMAT_VERSION: u32 = 1;
/// Largest number of sources in a state, former ones included: it stays below 1 KiB.
const MAX_SOURCES: usize = 16;

/// State of a reader after a global batch. Together with the versions that it reads, it determines the next pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixState {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Number of packs handed out so far, over all sources, ranks and epochs.
    pub position: u64,
    /// Number of packs handed out so far by source. Those of former sources stay, so that none is repeated if a source comes back.
    pub counters: BTreeMap<String, u64>,
    /// Id of the schedule at this state, see [`super::Schedule::id`].
    pub schedule: String,
    /// Seed of the order.
    pub seed: u64,
}

impl MixState {
    /// Returns a state of the present format.
    #[must_use]
    pub fn new(position: u64, counters: BTreeMap<String, u64>, schedule: &str, seed: u64) -> Self {
        Self { format_version: FORMAT_VERSION, position, counters, schedule: schedule.to_owned(), seed }
    }

    /// Checks that the state is valid, and that a reader with `seed` can continue from it.
    ///
    /// # Errors
    /// [`StageError::ReaderState`] with the problem.
    pub fn check(&self, seed: u64) -> Result<()> {
        let refused = |problem: String| Err(StageError::ReaderState { problem });
        if self.format_version != FORMAT_VERSION {
            return refused(format!("its format is {}, this reader knows {FORMAT_VERSION}; update cm3flow", self.format_version));
        }
        if self.seed != seed {
            return refused(format!("it is one of seed {}, this reader has seed {seed}, whose order is another", self.seed));
        }
        let sum = self.counters.values().try_fold(0_u64, |sum, count| sum.checked_add(*count));
        if sum != Some(self.position) {
            return refused(format!("its counters do not add up to its position {}; it is damaged", self.position));
        }
        Ok(())
    }

    /// Checks that the number of sources does not exceed the limit of a state.
    pub(super) fn check_room(&self) -> Result<()> {
        if self.counters.len() > MAX_SOURCES {
            let problem = format!("{} sources were read so far, a state remembers {MAX_SOURCES}; begin a new run", self.counters.len());
            return Err(StageError::ReaderState { problem });
        }
        Ok(())
    }
}
