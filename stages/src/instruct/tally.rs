//! Counts of `instruct` beside the records that it sends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared counts of an [`super::Instruct`]; clones share them.
#[derive(Debug, Clone, Default)]
pub struct InstructTally(Arc<Mutex<InstructCounts>>);

/// Counts so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstructCounts {
    /// Records that were not begun, by `task.missing content`.
    pub lacking: BTreeMap<String, u64>,
    /// Records whose texts lost their end.
    pub shortened: u64,
}

impl InstructTally {
    /// Returns a copy of the counts.
    #[must_use]
    pub fn counts(&self) -> InstructCounts {
        self.lock().clone()
    }

    pub(super) fn lack(&self, task: &str, what: &str) {
        *self.lock().lacking.entry(format!("{task}.{what}")).or_default() += 1;
    }

    pub(super) fn shorten(&self) {
        self.lock().shortened += 1;
    }

    fn lock(&self) -> MutexGuard<'_, InstructCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
