//! Bounded streams of record batches between stages: bounded by number of batches and by bytes, and metered on both ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Result, StageError};

/// Bytes that one permit of the byte semaphore stands for.
const PERMIT_BYTES: usize = 1024;

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
    starved_ns: AtomicU64,
    blocked_ns: AtomicU64,
    running_ns: AtomicU64,
    queued: AtomicU64,
}

impl StageMeter {
    /// A meter at zero.
    #[must_use]
    pub const fn new(stage: &'static str) -> Self {
        Self {
            stage,
            rows_in: AtomicU64::new(0),
            rows_out: AtomicU64::new(0),
            starved_ns: AtomicU64::new(0),
            blocked_ns: AtomicU64::new(0),
            running_ns: AtomicU64::new(0),
            queued: AtomicU64::new(0),
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

    /// Batches that wait in front of the stage now.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Time spent working: neither waiting for input nor for room behind; summed over units that ran at once.
    #[must_use]
    pub fn busy(&self) -> Duration {
        let nanoseconds = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let waited = nanoseconds(&self.starved_ns) + nanoseconds(&self.blocked_ns);
        Duration::from_nanos(nanoseconds(&self.running_ns).saturating_sub(waited))
    }

    /// Adds the time that a run of the stage took, waiting included.
    pub fn add_running(&self, time: Duration) {
        add(&self.running_ns, time);
    }
}

fn add(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

struct Message {
    batch: RecordBatch,
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
        let permits = batch.get_array_memory_size().div_ceil(PERMIT_BYTES).clamp(1, self.max_permits);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(permits).await.map_err(|_| StageError::DownstreamClosed)?;
        self.consumer.queued.fetch_add(1, Ordering::Relaxed);
        let sent = self.sender.send(Message { batch, _bytes: bytes }).await;
        add(&self.producer.blocked_ns, waiting.elapsed());
        if sent.is_err() {
            self.consumer.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(StageError::DownstreamClosed);
        }
        self.producer.rows_out.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }
}

impl BatchStream {
    /// The next batch; `None` when the sender is gone.
    pub async fn next(&self) -> Option<RecordBatch> {
        let waiting = Instant::now();
        let message = self.receiver.recv().await.ok();
        add(&self.consumer.starved_ns, waiting.elapsed());
        let Message { batch, .. } = message?;
        self.consumer.queued.fetch_sub(1, Ordering::Relaxed);
        self.consumer.rows_in.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
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
    }
}
