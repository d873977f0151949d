//! How often stores were asked, over all stores of this process: for metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Attempts at one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// All of them.
    pub sent: u64,
    /// Those that followed one that failed.
    pub retried: u64,
}

impl Requests {
    /// What came after `before`.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self { sent: self.sent - before.sent, retried: self.retried - before.retried }
    }
}

/// Counts by what was asked for: `create`, `read`, `list` and so on.
pub type RequestCounts = BTreeMap<String, Requests>;

// One for the process, as its network is: stores of the sources, of the dataset and of scratch copies are opened all over it.
static COUNTS: Mutex<BTreeMap<&'static str, Requests>> = Mutex::new(BTreeMap::new());

/// Counts an attempt.
pub(super) fn count(action: &'static str, is_retry: bool) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = counts.entry(action).or_default();
    requests.sent += 1;
    requests.retried += u64::from(is_retry);
}

/// What this process has asked so far.
#[must_use]
pub fn requests() -> RequestCounts {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    counts.iter().map(|(action, requests)| ((*action).to_owned(), *requests)).collect()
}
