//! Counts of requests to all stores of this process, for metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Numbers of attempts at one kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// All attempts.
    pub sent: u64,
    /// Attempts after a failed one.
    pub retried: u64,
}

impl Requests {
    /// Returns the difference to the earlier counts `before`.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self { sent: self.sent - before.sent, retried: self.retried - before.retried }
    }
}

/// Counts by action: `create`, `read`, `list` and so on.
pub type RequestCounts = BTreeMap<String, Requests>;

// One map for the process: stores of the sources, of the dataset and of scratch copies are opened in many places.
static COUNTS: Mutex<BTreeMap<&'static str, Requests>> = Mutex::new(BTreeMap::new());

/// Counts one attempt.
pub(super) fn count(action: &'static str, is_retry: bool) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let requests = counts.entry(action).or_default();
    requests.sent += 1;
    requests.retried += u64::from(is_retry);
}

/// Returns the counts of this process so far.
#[must_use]
pub fn requests() -> RequestCounts {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    counts.iter().map(|(action, requests)| ((*action).to_owned(), *requests)).collect()
}
