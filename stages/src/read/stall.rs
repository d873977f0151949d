//! Waiting times of a reader's consumer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Number of classes of the histogram. The last one has no upper bound; its lower bound is about half a minute.
const CLASSES: usize = 26;

/// Histogram of batches by the time that they waited for blocks or windows. Class 0 has waits below a microsecond, class `k` those of
/// `2^(k-1)` to `2^k` microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalls {
    /// Number of batches in each class.
    pub batches: [u64; CLASSES],
    /// Total waiting time in microseconds.
    pub waited_us: u64,
}

impl Stalls {
    pub(super) fn record(&mut self, waited: Duration) {
        let waited_us = waited.as_micros() as u64;
        let class = (u64::BITS - waited_us.leading_zeros()) as usize;
        self.batches[class.min(CLASSES - 1)] += 1;
        self.waited_us += waited_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_counted_by_their_powers_of_two() {
        let mut stalls = Stalls::default();
        for waited_us in [0, 1, 2, 3, 4, 1000, u64::from(u32::MAX)] {
            stalls.record(Duration::from_micros(waited_us));
        }
        let mut batches = [0; CLASSES];
        for (class, count) in [(0, 1), (1, 1), (2, 2), (3, 1), (10, 1), (25, 1)] {
            batches[class] = count;
        }
        assert_eq!(stalls, Stalls { batches, waited_us: 1010 + u64::from(u32::MAX) });
    }
}
