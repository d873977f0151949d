//! Meters of stages: rows, bytes and waiting time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Length from which a wait counts as a stall.
const STALL: Duration = Duration::from_secs(1);

/// Counters of one stage, over all units that it works on; cheap to read at any time.
#[derive(Debug)]
pub struct StageMeter {
    /// Name of the stage.
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

/// Snapshot of a meter, which another process can send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCounts {
    /// Rows received.
    pub rows_in: u64,
    /// Rows sent.
    pub rows_out: u64,
    /// Bytes received, as the memory size of batches.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Time spent waiting for input.
    pub starved: Duration,
    /// Time spent waiting for room downstream.
    pub blocked: Duration,
    /// Total running time, waits included.
    pub running: Duration,
    /// Number of long waits for input.
    pub starved_stalls: u64,
    /// Number of long waits for room downstream.
    pub blocked_stalls: u64,
}

impl StageCounts {
    /// Returns the counts since `before`, an earlier snapshot of the same meter.
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

/// Waiting time, and number of long waits.
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
    /// Returns a meter at zero.
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

    /// Returns the rows received so far.
    #[must_use]
    pub fn rows_in(&self) -> u64 {
        self.rows_in.load(Ordering::Relaxed)
    }

    /// Returns the rows sent so far.
    #[must_use]
    pub fn rows_out(&self) -> u64 {
        self.rows_out.load(Ordering::Relaxed)
    }

    /// Returns the bytes received so far, as the memory size of batches.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Returns the bytes sent so far, as the memory size of batches.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Returns the number of batches that wait for the stage now.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the batches that wait for the stage now.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Returns the time spent waiting for input, over finished waits; summed over units that ran in parallel.
    #[must_use]
    pub fn starved(&self) -> Duration {
        Duration::from_nanos(self.starved.ns.load(Ordering::Relaxed))
    }

    /// Returns the time spent waiting for room downstream, over finished waits; summed over units that ran in parallel.
    #[must_use]
    pub fn blocked(&self) -> Duration {
        Duration::from_nanos(self.blocked.ns.load(Ordering::Relaxed))
    }

    /// Returns the numbers of waits of a second or more, for input and for room downstream.
    #[must_use]
    pub fn stalls(&self) -> (u64, u64) {
        (self.starved.stalls.load(Ordering::Relaxed), self.blocked.stalls.load(Ordering::Relaxed))
    }

    /// Returns the working time, without waits for input or room; summed over units that ran in parallel.
    #[must_use]
    pub fn busy(&self) -> Duration {
        let running = Duration::from_nanos(self.running_ns.load(Ordering::Relaxed));
        running.saturating_sub(self.starved() + self.blocked())
    }

    /// Returns a snapshot of the counters. Batches that wait for the stage are not in it.
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

    /// Adds counts of another process.
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

    /// Adds the running time of a run of the stage, waits included.
    pub fn add_running(&self, time: Duration) {
        add(&self.running_ns, time);
    }
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Guard that counts a batch as waiting for `consumer` until it is dropped.
pub(crate) struct Queued {
    consumer: Arc<StageMeter>,
    /// Size of the batch in bytes.
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
