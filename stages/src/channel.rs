//! Bounded streams of record batches between stages: bounded by number of batches and by bytes, and metered at both ends.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arrow::array::RecordBatch;

use crate::budget::{BatchRoom, ByteBudget};
use crate::error::{Result, StageError};
use crate::meter::{Queued, StageMeter};

/// Limits of waiting batches. Clones share the budget.
#[derive(Debug, Clone)]
pub struct ChannelLimits {
    /// Largest number of batches in one channel.
    pub max_batches: usize,
    /// Budget of bytes for all channels that share it and for the pictures that are decoded under it.
    pub budget: ByteBudget,
}

impl Default for ChannelLimits {
    /// Returns 4 batches, and a new budget of 256 MiB.
    fn default() -> Self {
        Self::new(ByteBudget::new(256 << 20))
    }
}

impl ChannelLimits {
    /// Returns 4 batches in each channel, and `budget` for all of them.
    #[must_use]
    pub const fn new(budget: ByteBudget) -> Self {
        Self { max_batches: 4, budget }
    }
}

struct Message {
    batch: RecordBatch,
    queued: Queued,
    // Held while the batch waits, and dropped when it is received.
    _room: BatchRoom,
}

/// Sending end of a channel, which a stage writes to.
pub struct BatchSender {
    sender: async_channel::Sender<Message>,
    budget: ByteBudget,
    own: Arc<AtomicUsize>,
    producer: Arc<StageMeter>,
    consumer: Arc<StageMeter>,
}

/// Receiving end of a channel, which a stage reads from. Batches arrive in the order of sending.
pub struct BatchStream {
    receiver: async_channel::Receiver<Message>,
    budget: ByteBudget,
    consumer: Arc<StageMeter>,
}

impl Drop for BatchStream {
    /// Releases the bytes of waiting batches, and wakes senders that wait for room, since nothing receives any more.
    fn drop(&mut self) {
        self.receiver.close();
        while self.receiver.try_recv().is_ok() {}
        self.budget.freed().notify_waiters();
    }
}

/// Connects the stage of `producer` to the stage of `consumer`.
#[must_use]
pub fn channel(limits: &ChannelLimits, producer: &Arc<StageMeter>, consumer: &Arc<StageMeter>) -> (BatchSender, BatchStream) {
    let (sender, receiver) = async_channel::bounded(limits.max_batches.max(1));
    let budget = limits.budget.clone();
    let stream = BatchStream { receiver, budget: budget.clone(), consumer: Arc::clone(consumer) };
    let own = Arc::new(AtomicUsize::new(0));
    (BatchSender { sender, budget, own, producer: Arc::clone(producer), consumer: Arc::clone(consumer) }, stream)
}

impl BatchSender {
    /// Sends a batch once there is room for it. Empty batches are dropped.
    ///
    /// # Errors
    /// [`StageError::DownstreamClosed`] if the receiver is gone.
    pub async fn send(&self, batch: RecordBatch) -> Result<()> {
        let rows = batch.num_rows() as u64;
        if rows == 0 {
            return Ok(());
        }
        let waiting = Instant::now();
        let bytes = batch.get_array_memory_size();
        let room = self.room_for(bytes).await?;
        let bytes = bytes as u64;
        let sent = self.sender.send(Message { batch, queued: Queued::new(&self.consumer, bytes), _room: room }).await;
        self.producer.add_blocked(waiting.elapsed());
        sent.map_err(|_| StageError::DownstreamClosed)?;
        self.producer.count_out(rows, bytes);
        Ok(())
    }

    async fn room_for(&self, bytes: usize) -> Result<BatchRoom> {
        let mut freed = std::pin::pin!(self.budget.freed().notified());
        loop {
            // Registers before it checks, so that it misses no room that is returned in between.
            freed.as_mut().enable();
            if self.sender.is_closed() {
                return Err(StageError::DownstreamClosed);
            }
            if let Some(room) = self.budget.try_take(&self.own, bytes) {
                return Ok(room);
            }
            freed.as_mut().await;
            freed.set(self.budget.freed().notified());
        }
    }
}

impl BatchStream {
    /// Returns the next batch; `None` when the sender is gone.
    pub async fn next(&self) -> Option<RecordBatch> {
        let waiting = Instant::now();
        let message = self.receiver.recv().await.ok();
        self.consumer.add_starved(waiting.elapsed());
        let Message { batch, queued, .. } = message?;
        self.consumer.count_in(batch.num_rows() as u64, queued.bytes);
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::UInt64Array;
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: u64) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(UInt64Array::from_iter_values(0..rows)) as _)]).expect("one column")
    }

    #[tokio::test]
    async fn bytes_bound_what_waits() {
        let meter = Arc::new(StageMeter::new("test"));
        let limits = ChannelLimits { max_batches: 100, budget: ByteBudget::new(17 << 10) };
        let (sender, stream) = channel(&limits, &meter, &meter);
        let sending = tokio::spawn(async move {
            for _ in 0..10 {
                sender.send(batch(1024)).await.expect("receiver is there");
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(meter.queued() <= 2, "{} batches of 8 KiB wait in 17 KiB", meter.queued());
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
        let (sender, stream) = channel(&ChannelLimits::default(), &meter, &meter);
        drop(stream);
        assert!(matches!(sender.send(batch(1)).await, Err(StageError::DownstreamClosed)));
    }

    #[tokio::test]
    async fn a_sender_that_waits_for_room_learns_that_nobody_reads_any_more() {
        let meter = Arc::new(StageMeter::new("test"));
        let limits = ChannelLimits { max_batches: 100, budget: ByteBudget::new(8 << 10) };
        let (sender, stream) = channel(&limits, &meter, &meter);
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
        let (sender, stream) = channel(&ChannelLimits { max_batches: 0, budget: ByteBudget::new(0) }, &producer, &consumer);
        sender.send(batch(0)).await.expect("an empty batch is dropped");
        sender.send(batch(5000)).await.expect("passes alone");
        drop(sender);
        assert_eq!(stream.next().await.expect("one batch").num_rows(), 5000);
        assert!(stream.next().await.is_none());
        assert_eq!((producer.rows_out(), consumer.rows_in(), consumer.queued()), (5000, 5000, 0));
        assert!(producer.bytes_out() >= 40_000, "5000 numbers of 8 bytes");
        assert_eq!((producer.bytes_out(), consumer.queued_bytes()), (consumer.bytes_in(), 0));
    }

    #[tokio::test]
    async fn what_a_dropped_stream_held_is_room_for_others() {
        let meter = Arc::new(StageMeter::new("test"));
        let limits = ChannelLimits::new(ByteBudget::new(20 << 10));
        let (sender, stream) = channel(&limits, &meter, &meter);
        let (other, held) = channel(&limits, &meter, &meter);
        sender.send(batch(2048)).await.expect("fits");
        other.send(batch(8)).await.expect("its channel is empty");
        let waiting = tokio::spawn(async move { other.send(batch(1024)).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished(), "16 KiB wait elsewhere");
        drop(stream);
        let sent = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("the sender wakes up").expect("no panic");
        sent.expect("there is room");
        drop(held);
        assert_eq!(limits.budget.held(), 0);
    }

    /// A batch with a number of rows, and the byte sizes of pictures that are decoded in parallel before it continues.
    type Step = (u64, Vec<usize>);

    /// Decodes pictures as `derive` does: each thread waits for room, and returns it. Checks that no more than `most` bytes are ever held.
    async fn work_on(pictures: Vec<usize>, budget: ByteBudget, most: usize) {
        let working = move || {
            std::thread::scope(|scope| {
                for bytes in pictures {
                    let budget = &budget;
                    scope.spawn(move || {
                        let _room = budget.room_for_picture(bytes);
                        assert!(budget.held() <= most, "{} bytes are held, {most} may be", budget.held());
                        std::thread::yield_now();
                    });
                }
            });
        };
        tokio::task::spawn_blocking(working).await.expect("no more is held than may be");
    }

    /// Runs chains of two channels with one budget and a stage between them that decodes pictures. Checks that all batches arrive in order,
    /// and that no more than the budget, one batch of each channel, and one picture are ever held.
    async fn pass_through_chains(chains: Vec<Vec<Step>>, max_bytes: usize, max_batches: usize) {
        let limits = ChannelLimits { max_batches, budget: ByteBudget::new(max_bytes) };
        let bytes = |(rows, _): &Step| batch(*rows).get_array_memory_size();
        let batches: usize = chains.iter().map(|chain| 2 * chain.iter().map(bytes).max().unwrap_or(0)).sum();
        let most = max_bytes + batches + chains.iter().flatten().flat_map(|(_, pictures)| pictures).max().unwrap_or(&0);
        let mut ends = Vec::new();
        for chain in chains {
            let meter = Arc::new(StageMeter::new("test"));
            let ((first, between), (second, last)) = (channel(&limits, &meter, &meter), channel(&limits, &meter, &meter));
            let (sent, mut pictures): (Vec<u64>, Vec<Vec<usize>>) = chain.into_iter().unzip();
            let expected = sent.clone();
            tokio::spawn(async move {
                for rows in sent {
                    first.send(batch(rows)).await.expect("somebody reads");
                }
            });
            let budget = limits.budget.clone();
            tokio::spawn(async move {
                while let Some(batch) = between.next().await {
                    work_on(pictures.remove(0), budget.clone(), most).await;
                    second.send(batch).await.expect("somebody reads");
                }
            });
            let budget = limits.budget.clone();
            ends.push(tokio::spawn(async move {
                let mut received = Vec::new();
                while let Some(batch) = last.next().await {
                    assert!(budget.held() <= most, "{} bytes are held, {most} may be", budget.held());
                    received.push(batch.num_rows() as u64);
                    tokio::task::yield_now().await;
                }
                assert_eq!(received, expected);
            }));
        }
        for end in ends {
            tokio::time::timeout(Duration::from_secs(30), end).await.expect("no chain waits for ever").expect("all came in order");
        }
        assert_eq!(limits.budget.held(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chains_that_share_a_budget_with_pictures_all_come_to_their_end(
            chains in prop::collection::vec(
                prop::collection::vec((1_u64..3000, prop::collection::vec(0_usize..128 << 10, 0..4)), 0..20),
                1..6,
            ),
            max_bytes in 0_usize..64 << 10,
            max_batches in 1_usize..5,
        ) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
            runtime.block_on(pass_through_chains(chains, max_bytes, max_batches));
        }
    }
}
