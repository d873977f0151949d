//! One budget of bytes for all that a process holds between and within stages: batches that wait in channels, and pictures that are being decoded.
//!
//! Nobody waits for ever, whatever the sizes, because there is no circle of waiting:
//!
//! - Who holds [`PictureRoom`] computes and gives it back; it neither sends nor receives, takes no second room, and leaves no part of its work to other
//!   threads, since a thread that waits for such a part would begin with another picture meanwhile. So room for pictures always comes
//!   back, and since a picture is let in when no other one is, whatever batches hold, the first in line is let in after a finite time.
//! - Who waits for room for a picture holds no bytes of the budget: a batch gives its bytes back when it is received.
//! - A sender waits only if a batch waits in its own channel. The receiver of that channel takes it once it is ready: it computes, or waits for room for
//!   a picture, or sends further down. The last receiver does not send, so each one before it becomes ready in turn.
//!
//! Pictures go first: while one is in line, no channel takes a second batch. Else sources, which are faster than decoders, would keep the budget full.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bytes that may be held at once by all that share it. Cloning shares it.
///
/// A channel in which nothing waits takes a batch of any size, and a picture is let in when no other one is: each whatever the others hold. What is held
/// at once is therefore at most the budget, one batch of each channel, and one picture.
#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max_bytes: usize,
    held: Mutex<Held>,
    /// Wakes senders.
    freed: Notify,
    /// Wakes those who wait for room for a picture.
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    batch_bytes: usize,
    picture_bytes: usize,
    /// Pictures that have room.
    pictures: usize,
    /// Pictures that came so far, and those of them that were let in: in the order in which they came.
    came: u64,
    let_in: u64,
}

impl Held {
    const fn bytes(&self) -> usize {
        self.batch_bytes.saturating_add(self.picture_bytes)
    }

    fn fits(&self, bytes: usize, max_bytes: usize) -> bool {
        self.bytes().checked_add(bytes).is_some_and(|sum| sum <= max_bytes)
    }
}

impl ByteBudget {
    /// A budget of `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        let held = Mutex::new(Held::default());
        Self(Arc::new(Shared { max_bytes, held, freed: Notify::new(), returned: Condvar::new() }))
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lock().bytes()
    }

    /// Waits until there is room for a picture that takes `bytes` while it is worked on. Blocks the thread, which must compute until it gives the room back,
    /// and hold no other.
    #[must_use]
    pub fn room_for_picture(&self, bytes: usize) -> PictureRoom {
        let mut held = self.lock();
        let number = held.came;
        held.came += 1;
        while held.let_in != number || (held.pictures > 0 && !held.fits(bytes, self.0.max_bytes)) {
            held = self.0.returned.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.let_in += 1;
        held.pictures += 1;
        held.picture_bytes = held.picture_bytes.saturating_add(bytes);
        drop(held);
        // The next one in line may fit too, or there is none and senders go on.
        self.wake();
        PictureRoom { budget: self.clone(), bytes }
    }

    /// Takes `bytes` for a batch if they fit and no picture is in line, or if the channel that counts its batches in `own` holds none.
    pub(crate) fn try_take(&self, own: &Arc<AtomicUsize>, bytes: usize) -> Option<BatchRoom> {
        let mut held = self.lock();
        let is_alone = own.load(Ordering::Acquire) == 0;
        let is_let_in = held.came == held.let_in && held.fits(bytes, self.0.max_bytes);
        if !is_alone && !is_let_in {
            return None;
        }
        own.fetch_add(1, Ordering::AcqRel);
        held.batch_bytes = held.batch_bytes.saturating_add(bytes);
        Some(BatchRoom { budget: self.clone(), own: Arc::clone(own), bytes })
    }

    /// Tells senders when to look again.
    pub(crate) fn freed(&self) -> &Notify {
        &self.0.freed
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.0.returned.notify_all();
        self.0.freed.notify_waiters();
    }
}

/// Bytes of one batch that waits; given back when it is dropped.
pub(crate) struct BatchRoom {
    budget: ByteBudget,
    own: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for BatchRoom {
    fn drop(&mut self) {
        {
            let mut held = self.budget.lock();
            self.own.fetch_sub(1, Ordering::AcqRel);
            held.batch_bytes = held.batch_bytes.saturating_sub(self.bytes);
        }
        self.budget.wake();
    }
}

/// Bytes of one picture that is worked on; given back when it is dropped.
#[derive(Debug)]
pub struct PictureRoom {
    budget: ByteBudget,
    bytes: usize,
}

impl Drop for PictureRoom {
    fn drop(&mut self) {
        {
            let mut held = self.budget.lock();
            held.pictures -= 1;
            held.picture_bytes = held.picture_bytes.saturating_sub(self.bytes);
        }
        self.budget.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Long enough for a thread that is let in to say so.
    const SHORT: Duration = Duration::from_millis(50);
    /// Long enough for any machine.
    const LONG: Duration = Duration::from_secs(20);

    /// Threads that each ask for room in order, say that they have it, and keep it until they are told.
    struct Line {
        budget: ByteBudget,
        let_in: mpsc::Sender<usize>,
        said: mpsc::Receiver<usize>,
        ends: Vec<mpsc::Sender<()>>,
    }

    impl Line {
        fn new(budget: &ByteBudget) -> Self {
            let (let_in, said) = mpsc::channel();
            Self { budget: budget.clone(), let_in, said, ends: Vec::new() }
        }

        fn joins(&mut self, bytes: usize) {
            let (end, ended) = mpsc::channel();
            let (budget, let_in) = (self.budget.clone(), self.let_in.clone());
            let before = self.budget.lock().came;
            thread::spawn(move || {
                let room = budget.room_for_picture(bytes);
                let_in.send(bytes).expect("the test listens");
                ended.recv().ok();
                drop(room);
            });
            while self.budget.lock().came == before {
                thread::yield_now();
            }
            self.ends.push(end);
        }

        fn next(&self) -> Option<usize> {
            self.said.recv_timeout(LONG).ok()
        }

        fn nobody(&self) -> bool {
            self.said.recv_timeout(SHORT).is_err()
        }
    }

    fn channel_with(batches: usize) -> Arc<AtomicUsize> {
        Arc::new(AtomicUsize::new(batches))
    }

    #[test]
    fn pictures_that_fit_are_worked_on_together() {
        let budget = ByteBudget::new(100);
        let mut line = Line::new(&budget);
        [40, 60].into_iter().for_each(|bytes| line.joins(bytes));
        let mut found = [line.next(), line.next()];
        found.sort();
        assert_eq!((found, budget.held()), ([Some(40), Some(60)], 100));
        line.joins(1);
        assert!(line.nobody());
        line.ends.remove(0);
        assert_eq!(line.next(), Some(1));
    }

    #[test]
    fn a_picture_larger_than_the_budget_goes_alone() {
        let budget = ByteBudget::new(100);
        let mut line = Line::new(&budget);
        line.joins(10);
        assert_eq!(line.next(), Some(10));
        line.joins(1000);
        assert!(line.nobody());
        line.ends.remove(0);
        assert_eq!((line.next(), budget.held()), (Some(1000), 1000));
        line.joins(0);
        assert!(line.nobody(), "not even one that takes nothing");
        line.ends.remove(0);
        assert_eq!(line.next(), Some(0));
    }

    #[test]
    fn small_pictures_do_not_overtake_a_large_one() {
        let budget = ByteBudget::new(100);
        let mut line = Line::new(&budget);
        line.joins(50);
        assert_eq!(line.next(), Some(50));
        line.joins(90);
        line.joins(10);
        assert!(line.nobody(), "10 would fit, but 90 came first");
        line.ends.remove(0);
        let mut found = [line.next(), line.next()];
        found.sort();
        assert_eq!(found, [Some(10), Some(90)]);
    }

    #[test]
    fn a_picture_is_let_in_whatever_batches_hold() {
        let budget = ByteBudget::new(100);
        let own = channel_with(0);
        let taken = [budget.try_take(&own, 500), budget.try_take(&own, 0)];
        assert!(taken[0].is_some() && taken[1].is_none());
        let room = budget.room_for_picture(70);
        assert_eq!(budget.held(), 570);
        drop((taken, room));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn no_channel_takes_a_second_batch_while_a_picture_is_in_line() {
        let budget = ByteBudget::new(100);
        let mut line = Line::new(&budget);
        line.joins(60);
        assert_eq!(line.next(), Some(60));
        let first = budget.try_take(&channel_with(1), 10).expect("it fits");
        line.joins(60);
        assert!(line.nobody());
        assert!(budget.try_take(&channel_with(1), 10).is_none(), "it would fit, but a picture waits");
        let alone = budget.try_take(&channel_with(0), 10).expect("a channel in which nothing waits takes one");
        line.ends.remove(0);
        assert_eq!(line.next(), Some(60));
        assert!(budget.try_take(&channel_with(1), 10).is_some());
        drop((first, alone));
    }

    #[test]
    fn room_comes_back_from_a_thread_that_panics() {
        let budget = ByteBudget::new(1);
        let other = budget.clone();
        let ended = thread::spawn(move || {
            let _room = other.room_for_picture(5);
            panic!("for the test");
        });
        assert!(ended.join().is_err());
        assert_eq!(budget.held(), 0);
        drop(budget.room_for_picture(5));
    }
}
