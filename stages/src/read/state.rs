//! Where a reader stands: small, plain JSON, valid for any number of ranks and workers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};

/// Version of this format.
const FORMAT_VERSION: u32 = 1;
/// Most sources that a state remembers, those that are read no more among them: it stays below 1 KiB.
const MAX_SOURCES: usize = 16;

/// Where a reader stands after a global batch. Together with the versions that it reads it says what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixState {
    /// Version of this format, 1.
    pub format_version: u32,
    /// Packs handed out so far, over all sources, ranks and epochs.
    pub position: u64,
    /// Packs handed out so far by source; those of sources that are no longer read stay, so that none is repeated if they come back.
    pub counters: BTreeMap<String, u64>,
    /// Schedule of weights under which it was reached, see [`super::Schedule::id`].
    pub schedule: String,
    /// Seed of the order.
    pub seed: u64,
}

impl MixState {
    /// The state of the present format.
    #[must_use]
    pub fn new(position: u64, counters: BTreeMap<String, u64>, schedule: &str, seed: u64) -> Self {
        Self { format_version: FORMAT_VERSION, position, counters, schedule: schedule.to_owned(), seed }
    }

    /// Checks that it is sound, and that a reader with `seed` can go on from it.
    ///
    /// # Errors
    /// [`StageError::ReaderState`] that says what is wrong.
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

    /// Checks that no more sources are remembered than a state has room for.
    pub(super) fn check_room(&self) -> Result<()> {
        if self.counters.len() > MAX_SOURCES {
            let problem = format!("{} sources were read so far, a state remembers {MAX_SOURCES}; begin a new run", self.counters.len());
            return Err(StageError::ReaderState { problem });
        }
        Ok(())
    }
}
