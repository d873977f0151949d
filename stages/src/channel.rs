//! Bounded streams of record batches between stages: bounded by number of batches and by bytes, and metered on both ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Result, StageError};

/// Bytes that one permit of the byte semaphore stands for.
const PERMIT_BYTES: usize = 1024;

/// A wait of this length or more counts as a stall.
const STALL: Duration = Duration::from_secs(1);

/// How much may wait between two stages.
#[derive(Debug, Clone, Copy)]
pub struct ChannelLimits {
    /// Most batches.
    pub max_batches: usize,
    /// Most bytes; a single larger batch passes alone.
    pub max_bytes: usize,
}

impl Default for ChannelLimits {
    /// 4 batches, 64 MiB.
    fn default() -> Self {
        Self { max_batches: 4, max_bytes: 64 << 20 }
    }
}

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

    /// Adds the time that a run of the stage took, waiting included.
    pub fn add_running(&self, time: Duration) {
        add(&self.running_ns, time);
    }
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Counts a batch in front of `consumer` while it lives, however it ends.
struct Queued {
    consumer: Arc<StageMeter>,
    bytes: u64,
}

impl Queued {
    fn new(consumer: &Arc<StageMeter>, bytes: u64) -> Self {
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

struct Message {
    batch: RecordBatch,
    queued: Queued,
    // Held while the batch waits; dropped when it is received.
    _bytes: OwnedSemaphorePermit,
}

/// Sending end: what a stage writes to.
pub struct BatchSender {
    sender: async_channel::Sender<Message>,
    bytes: Arc<Semaphore>,
    max_permits: usize,
    producer: Arc<StageMeter>,
    consumer: Arc<StageMeter>,
}

/// Receiving end: what a stage reads from. Batches come in the order in which they were sent.
pub struct BatchStream {
    receiver: async_channel::Receiver<Message>,
    bytes: Arc<Semaphore>,
    consumer: Arc<StageMeter>,
}

impl Drop for BatchStream {
    /// Batches that still wait keep their bytes until the sender is gone too, so a sender that waits for room must be woken.
    fn drop(&mut self) {
        self.bytes.close();
    }
}

/// Connects the stage of `producer` to the stage of `consumer`.
#[must_use]
pub fn channel(limits: ChannelLimits, producer: &Arc<StageMeter>, consumer: &Arc<StageMeter>) -> (BatchSender, BatchStream) {
    let (sender, receiver) = async_channel::bounded(limits.max_batches.max(1));
    let max_permits = (limits.max_bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
    let bytes = Arc::new(Semaphore::new(max_permits));
    let sender =
        BatchSender { sender, bytes: Arc::clone(&bytes), max_permits, producer: Arc::clone(producer), consumer: Arc::clone(consumer) };
    (sender, BatchStream { receiver, bytes, consumer: Arc::clone(consumer) })
}

impl BatchSender {
    /// Sends a batch once there is room for it. Empty batches are dropped.
    ///
    /// # Errors
    /// [`StageError::DownstreamClosed`].
    pub async fn send(&self, batch: RecordBatch) -> Result<()> {
        let rows = batch.num_rows() as u64;
        if rows == 0 {
            return Ok(());
        }
        let waiting = Instant::now();
        let size = batch.get_array_memory_size();
        let permits = size.div_ceil(PERMIT_BYTES).clamp(1, self.max_permits);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(permits).await.map_err(|_| StageError::DownstreamClosed)?;
        let size = size as u64;
        let sent = self.sender.send(Message { batch, queued: Queued::new(&self.consumer, size), _bytes: bytes }).await;
        self.producer.blocked.add(waiting.elapsed());
        sent.map_err(|_| StageError::DownstreamClosed)?;
        self.producer.rows_out.fetch_add(rows, Ordering::Relaxed);
        self.producer.bytes_out.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }
}

impl BatchStream {
    /// The next batch; `None` when the sender is gone.
    pub async fn next(&self) -> Option<RecordBatch> {
        let waiting = Instant::now();
        let message = self.receiver.recv().await.ok();
        self.consumer.starved.add(waiting.elapsed());
        let Message { batch, queued, .. } = message?;
        self.consumer.rows_in.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        self.consumer.bytes_in.fetch_add(queued.bytes, Ordering::Relaxed);
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{RecordBatch, UInt64Array};

    use super::*;

    fn batch(rows: u64) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(UInt64Array::from_iter_values(0..rows)) as _)]).expect("one column")
    }

    #[tokio::test]
    async fn bytes_bound_what_waits() {
        let meter = Arc::new(StageMeter::new("test"));
        let limits = ChannelLimits { max_batches: 100, max_bytes: 16 << 10 };
        let (sender, stream) = channel(limits, &meter, &meter);
        let sending = tokio::spawn(async move {
            for _ in 0..10 {
                sender.send(batch(1024)).await.expect("receiver is there");
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(meter.queued() <= 2, "{} batches of 8 KiB wait in 16 KiB", meter.queued());
        let mut rows = 0;
        while let Some(batch) = stream.next().await {
            rows += batch.num_rows();
        }
        sending.await.expect("sender ends");
        assert_eq!(rows, 10 * 1024);
    }

    #[tokio::test]
    async fn sending_to_nobody_is_an_error() {
        let meter = Arc::new(StageMeter::new("test"));
        let (sender, stream) = channel(ChannelLimits::default(), &meter, &meter);
        drop(stream);
        assert!(matches!(sender.send(batch(1)).await, Err(StageError::DownstreamClosed)));
    }

    #[tokio::test]
    async fn a_sender_that_waits_for_room_learns_that_nobody_reads_any_more() {
        let meter = Arc::new(StageMeter::new("test"));
        let limits = ChannelLimits { max_batches: 100, max_bytes: 8 << 10 };
        let (sender, stream) = channel(limits, &meter, &meter);
        sender.send(batch(1024)).await.expect("the first batch may take all room");
        let waiting = tokio::spawn(async move { sender.send(batch(1024)).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(stream);
        let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("the sender wakes up").expect("no panic");
        assert!(matches!(ended, Err(StageError::DownstreamClosed)));
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_limit_passes_alone_and_meters_count_rows() {
        let (producer, consumer) = (Arc::new(StageMeter::new("producer")), Arc::new(StageMeter::new("consumer")));
        let (sender, stream) = channel(ChannelLimits { max_batches: 0, max_bytes: 0 }, &producer, &consumer);
        sender.send(batch(0)).await.expect("an empty batch is dropped");
        sender.send(batch(5000)).await.expect("passes alone");
        drop(sender);
        assert_eq!(stream.next().await.expect("one batch").num_rows(), 5000);
        assert!(stream.next().await.is_none());
        assert_eq!((producer.rows_out(), consumer.rows_in(), consumer.queued()), (5000, 5000, 0));
        assert!(producer.bytes_out() >= 40_000, "5000 numbers of 8 bytes");
        assert_eq!((producer.bytes_out(), consumer.queued_bytes()), (consumer.bytes_in(), 0));
    }
}
