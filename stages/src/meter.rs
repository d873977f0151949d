//! What each stage counts: rows, bytes, and the time that it waited.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A wait of this length or more counts as a stall.
const STALL: Duration = Duration::from_secs(1);

/// Counts of one stage, over all units that it works on; cheap to read at any time.
#[derive(Debug)]
pub struct StageMeter {
    /// The stage's name.
    pub stage: &'static str,
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    starved: Waits,
    blocked: Waits,
    running_ns: AtomicU64,
    queued: AtomicU64,
    queued_bytes: AtomicU64,
}

/// What a stage counted: a plain copy that another process can send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCounts {
    /// Rows received.
    pub rows_in: u64,
    /// Rows sent.
    pub rows_out: u64,
    /// Bytes received, as batches take them in memory.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Time spent waiting for input.
    pub starved: Duration,
    /// Time spent waiting for room behind.
    pub blocked: Duration,
    /// Time that it ran, waiting included.
    pub running: Duration,
    /// Long waits for input.
    pub starved_stalls: u64,
    /// Long waits for room behind.
    pub blocked_stalls: u64,
}

impl StageCounts {
    /// What came after `before`, an earlier reading of the same meter.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            rows_in: self.rows_in - before.rows_in,
            rows_out: self.rows_out - before.rows_out,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
            starved: self.starved.saturating_sub(before.starved),
            blocked: self.blocked.saturating_sub(before.blocked),
            running: self.running.saturating_sub(before.running),
            starved_stalls: self.starved_stalls - before.starved_stalls,
            blocked_stalls: self.blocked_stalls - before.blocked_stalls,
        }
    }
}

/// Time that was waited, and how often for long.
#[derive(Debug)]
struct Waits {
    ns: AtomicU64,
    stalls: AtomicU64,
}

impl Waits {
    const fn new() -> Self {
        Self { ns: AtomicU64::new(0), stalls: AtomicU64::new(0) }
    }

    fn add(&self, time: Duration) {
        add(&self.ns, time);
        if time >= STALL {
            self.stalls.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl StageMeter {
    /// A meter at zero.
    #[must_use]
    pub const fn new(stage: &'static str) -> Self {
        Self {
            stage,
            rows_in: AtomicU64::new(0),
            rows_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            starved: Waits::new(),
            blocked: Waits::new(),
            running_ns: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
        }
    }

    /// Rows received so far.
    #[must_use]
    pub fn rows_in(&self) -> u64 {
        self.rows_in.load(Ordering::Relaxed)
    }

    /// Rows sent so far.
    #[must_use]
    pub fn rows_out(&self) -> u64 {
        self.rows_out.load(Ordering::Relaxed)
    }

    /// Bytes received so far, as batches take them in memory.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes sent so far, as batches take them in memory.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Batches that wait in front of the stage now.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Bytes of those batches.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Time spent waiting for input, by ended waits; summed over units that ran at once.
    #[must_use]
    pub fn starved(&self) -> Duration {
        Duration::from_nanos(self.starved.ns.load(Ordering::Relaxed))
    }

    /// Time spent waiting for room behind, by ended waits; summed over units that ran at once.
    #[must_use]
    pub fn blocked(&self) -> Duration {
        Duration::from_nanos(self.blocked.ns.load(Ordering::Relaxed))
    }

    /// Waits of a second or more for input, and for room behind.
    #[must_use]
    pub fn stalls(&self) -> (u64, u64) {
        (self.starved.stalls.load(Ordering::Relaxed), self.blocked.stalls.load(Ordering::Relaxed))
    }

    /// Time spent working: neither waiting for input nor for room behind; summed over units that ran at once.
    #[must_use]
    pub fn busy(&self) -> Duration {
        let running = Duration::from_nanos(self.running_ns.load(Ordering::Relaxed));
        running.saturating_sub(self.starved() + self.blocked())
    }

    /// What has been counted so far; what waits in front of the stage is no count.
    #[must_use]
    pub fn counts(&self) -> StageCounts {
        let (starved_stalls, blocked_stalls) = self.stalls();
        StageCounts {
            rows_in: self.rows_in(),
            rows_out: self.rows_out(),
            bytes_in: self.bytes_in(),
            bytes_out: self.bytes_out(),
            starved: self.starved(),
            blocked: self.blocked(),
            running: Duration::from_nanos(self.running_ns.load(Ordering::Relaxed)),
            starved_stalls,
            blocked_stalls,
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&self, counts: &StageCounts) {
        for (counter, count) in [
            (&self.rows_in, counts.rows_in),
            (&self.rows_out, counts.rows_out),
            (&self.bytes_in, counts.bytes_in),
            (&self.bytes_out, counts.bytes_out),
            (&self.starved.stalls, counts.starved_stalls),
            (&self.blocked.stalls, counts.blocked_stalls),
        ] {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        add(&self.starved.ns, counts.starved);
        add(&self.blocked.ns, counts.blocked);
        add(&self.running_ns, counts.running);
    }

    pub(crate) fn count_in(&self, rows: u64, bytes: u64) {
        self.rows_in.fetch_add(rows, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_out(&self, rows: u64, bytes: u64) {
        self.rows_out.fetch_add(rows, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_starved(&self, time: Duration) {
        self.starved.add(time);
    }

    pub(crate) fn add_blocked(&self, time: Duration) {
        self.blocked.add(time);
    }

    /// Adds the time that a run of the stage took, waiting included.
    pub fn add_running(&self, time: Duration) {
        add(&self.running_ns, time);
    }
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Counts a batch in front of `consumer` while it lives, however it ends.
pub(crate) struct Queued {
    consumer: Arc<StageMeter>,
    /// Bytes of the batch.
    pub(crate) bytes: u64,
}

impl Queued {
    pub(crate) fn new(consumer: &Arc<StageMeter>, bytes: u64) -> Self {
        consumer.queued.fetch_add(1, Ordering::Relaxed);
        consumer.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { consumer: Arc::clone(consumer), bytes }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.consumer.queued.fetch_sub(1, Ordering::Relaxed);
        self.consumer.queued_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
