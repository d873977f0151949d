//! One budget of bytes for a whole process: for batches that wait in channels, and pictures that are being decoded.
//!
//! Every waiter gets its turn, whatever the sizes, because waiting never forms a circle:
//!
//! - A holder of [`PictureRoom`] computes and then returns it. It neither sends nor receives, and takes no second room. It leaves no part
//!   of its work to other threads, since a thread that waits for such a part would meanwhile begin another picture. So room for pictures
//!   always comes back. A picture is let in when no other one is, whatever batches hold, so the first in line waits for a finite time.
//! - A waiter for room for a picture holds no bytes of the budget: a batch returns its bytes when it is received.
//! - A sender waits only if a batch waits in its own channel. The receiver of that channel takes the batch once it is ready: it computes,
//!   waits for room for a picture, or sends further down. The last receiver does not send, so each one before it becomes ready in turn.
//!
//! Pictures have priority: while one is in line, no channel takes a second batch. Otherwise sources, which are faster than decoders, would
//! keep the budget full.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Limit of the bytes held at once by all its clones, which share it.
///
/// An empty channel takes a batch of any size, and a picture is let in when no other one is, whatever the others hold. So at most the
/// budget, one batch of each channel, and one picture are held at once.
#[derive(Debug, Clone)]
pub struct ByteBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max_bytes: usize,
    held: Mutex<Held>,
    /// Wakes senders.
    freed: Notify,
    /// Wakes waiters for room for a picture.
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    batch_bytes: usize,
    picture_bytes: usize,
    /// Number of pictures that have room.
    pictures: usize,
    /// Numbers of pictures that have come and that have been let in; they are let in in the order in which they come.
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
    /// Returns a budget of `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        let held = Mutex::new(Held::default());
        Self(Arc::new(Shared { max_bytes, held, freed: Notify::new(), returned: Condvar::new() }))
    }

    /// Returns the number of bytes that are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lock().bytes()
    }

    /// Waits until there is room for a picture that takes `bytes` during its decoding. Blocks the thread. The caller must compute until it
    /// returns the room, and must hold no other room.
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
        // The next picture in line may fit too. If there is none, senders may continue.
        self.wake();
        PictureRoom { budget: self.clone(), bytes }
    }

    /// Takes `bytes` for a batch if they fit and no picture is in line, or if the channel, which counts its batches in `own`, is empty.
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

    /// Returns the signal after which senders try again.
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

/// Bytes of one waiting batch; released when it is dropped.
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

/// Bytes of one picture that is being decoded; released when it is dropped.
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

    /// Long enough for a thread that was let in to report it.
    const SHORT: Duration = Duration::from_millis(50);
    /// Long enough on any machine.
    const LONG: Duration = Duration::from_secs(20);

    /// Threads that ask for room in a known order, report when they have it, and keep it until told to return it.
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
