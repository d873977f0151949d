//! Threads that own models: libtorch's tensors may move between threads but not be shared, and a device needs one queue.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use crate::error::{Result, StageError};

type Job<M> = Box<dyn FnOnce(&mut M) + Send>;

/// Handle that calls a model on the thread that owns it. Clones share the thread, which ends when the last of them is dropped.
pub struct Owner<M> {
    name: &'static str,
    jobs: async_channel::Sender<Job<M>>,
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
        let work = move || {
            while let Ok(job) = queue.recv_blocking() {
                job(&mut model);
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|source| StageError::Read { location: format!("thread {name}"), source })?;
        Ok(Self { name, jobs })
    }

    /// Runs `call` on the owning thread, after all earlier calls. A call that panics does not affect others: models only compute, so their
    /// state is as before it.
    ///
    /// # Errors
    /// [`StageError::OwnerPanicked`] if the call panicked.
    pub async fn call<R: Send + 'static>(&self, call: impl FnOnce(&mut M) -> R + Send + 'static) -> Result<R> {
        let panicked = |problem| StageError::OwnerPanicked { owner: self.name, problem };
        let gone = || panicked("its thread is gone".into());
        let (answer, answered) = oneshot::channel();
        let job: Job<M> = Box::new(move |model| {
            let result = catch_unwind(AssertUnwindSafe(|| call(model))).map_err(|payload| said(payload.as_ref()));
            // A caller that has gone away needs no answer.
            drop(answer.send(result));
        });
        self.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map_err(panicked)
    }

    /// Runs `call` as [`Self::call`] does, from a thread that may block.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub fn call_blocking<R: Send + 'static>(&self, call: impl FnOnce(&mut M) -> R + Send + 'static) -> Result<R> {
        futures::executor::block_on(self.call(call))
    }
}

/// Returns the message of a panic.
fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a word").to_owned()
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
    async fn a_panic_is_told_to_its_caller_and_the_model_lives_on() {
        let owner = Owner::spawn("fragile", 7).expect("thread");
        let panics = owner.call(|number| panic!("broken at {number}"));
        let (first, second): (Result<()>, _) = futures::future::join(panics, owner.call(|number| *number)).await;
        let error = first.expect_err("it panicked").to_string();
        assert_eq!(error, "fragile panicked: broken at 7");
        assert_eq!(second.expect("alive"), 7, "a call that waited");
        assert_eq!(owner.call(|number| *number).await.expect("alive"), 7);
    }
}
