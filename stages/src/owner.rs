//! One thread that owns a model: libtorch's tensors may move between threads but not be shared, and a device wants one queue.

use tokio::sync::oneshot;

use crate::error::{Result, StageError};

type Job<M> = Box<dyn FnOnce(&mut M) + Send>;

/// Calls a model on the thread that owns it. Clones share the thread; it ends when the last of them is dropped.
pub struct Owner<M> {
    name: &'static str,
    jobs: async_channel::Sender<Job<M>>,
}

/// The owning thread's end. A call that came in just before the thread ended must learn that nobody will answer.
struct Queue<M>(async_channel::Receiver<Job<M>>);

impl<M> Drop for Queue<M> {
    fn drop(&mut self) {
        self.0.close();
        while self.0.try_recv().is_ok() {}
    }
}

impl<M> Clone for Owner<M> {
    fn clone(&self) -> Self {
        Self { name: self.name, jobs: self.jobs.clone() }
    }
}

impl<M: Send + 'static> Owner<M> {
    /// Starts the thread `name` and gives it `model`.
    ///
    /// # Errors
    /// [`StageError::Read`] if the system refuses a thread.
    pub fn spawn(name: &'static str, mut model: M) -> Result<Self> {
        let (jobs, queue) = async_channel::bounded::<Job<M>>(1);
        let queue = Queue(queue);
        let work = move || {
            while let Ok(job) = queue.0.recv_blocking() {
                job(&mut model);
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|source| StageError::Read { location: format!("thread {name}"), source })?;
        Ok(Self { name, jobs })
    }

    /// Runs `call` on the owning thread, after all calls that came before.
    ///
    /// # Errors
    /// [`StageError::OwnerStopped`] if an earlier call panicked.
    pub async fn call<R: Send + 'static>(&self, call: impl FnOnce(&mut M) -> R + Send + 'static) -> Result<R> {
        let stopped = || StageError::OwnerStopped { owner: self.name };
        let (answer, answered) = oneshot::channel();
        // A caller that went away does not want its answer.
        let job: Job<M> = Box::new(move |model| drop(answer.send(call(model))));
        self.jobs.send(job).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())
    }

    /// As [`Self::call`], from a thread that may block.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_blocking<R: Send + 'static>(&self, call: impl FnOnce(&mut M) -> R + Send + 'static) -> Result<R> {
        futures::executor::block_on(self.call(call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_share_one_model_in_order() {
        let owner = Owner::spawn("counter", 0).expect("thread");
        for expected in 1..=3 {
            let clone = owner.clone();
            let count = clone
                .call(|count| {
                    *count += 1;
                    *count
                })
                .await
                .expect("alive");
            assert_eq!(count, expected);
        }
    }

    #[tokio::test]
    async fn a_panic_is_reported_to_callers() {
        let owner = Owner::spawn("fragile", ()).expect("thread");
        assert!(owner.call(|()| panic!("broken model")).await.is_err());
        let after = tokio::time::timeout(std::time::Duration::from_secs(10), owner.call(|()| ()))
            .await
            .expect("a call to a dead thread must not hang");
        assert!(matches!(after, Err(StageError::OwnerStopped { owner: "fragile" })));
    }

    #[tokio::test]
    async fn a_call_that_waits_when_the_thread_dies_is_answered() {
        for _ in 0..50 {
            let owner = Owner::spawn("fragile", ()).expect("thread");
            let dying = owner.call(|()| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                panic!("broken model")
            });
            let both = futures::future::join(dying, owner.call(|()| ()));
            let (first, second): (Result<()>, _) =
                tokio::time::timeout(std::time::Duration::from_secs(10), both).await.expect("no call hangs");
            assert!(first.is_err() && second.is_err());
        }
    }
}
