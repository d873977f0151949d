//! A configuration at work.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Config;
use crate::catalog::Catalog;
use crate::error::{PipelineError, Result};
use crate::events::progress::Progress;
use crate::store::Store;

/// Time that work has from a request to stop to its next safe point.
const GRACE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });

/// A configuration with the store that it works on and the progress that is told of the work. Clones share all of it.
#[derive(Debug, Clone)]
pub struct Job {
    /// The configuration.
    pub config: Arc<Config>,
    /// The store of the dataset.
    pub store: Store,
    /// Listener to events.
    pub progress: Progress,
    /// Request to stop: loops look for it between their steps.
    pub stop: CancellationToken,
}

impl Job {
    /// Puts `config` to work on `store`.
    #[must_use]
    pub fn new(config: Config, store: Store, progress: Progress) -> Self {
        Self { config: Arc::new(config), store, progress, stop: CancellationToken::new() }
    }

    /// Returns the same work on another store.
    #[must_use]
    pub fn on(&self, store: Store) -> Self {
        Self { store, ..self.clone() }
    }

    /// Returns the name of the dataset.
    #[must_use]
    pub fn dataset(&self) -> &str {
        &self.config.dataset.name
    }

    /// Returns the catalog of the dataset.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.store.clone(), self.dataset())
    }

    /// Marks a safe point: work may end here.
    ///
    /// # Errors
    /// [`PipelineError::Interrupted`] after a request to stop.
    pub(crate) fn safe_point(&self) -> Result<()> {
        if self.stop.is_cancelled() { Err(PipelineError::Interrupted) } else { Ok(()) }
    }

    /// Does `work`, and gives it up where it has not come to a safe point in time after a request to stop: calls of libraries, and units that take
    /// long. Work that is given up has committed nothing of its last step.
    ///
    /// # Errors
    /// Those of `work`, or [`PipelineError::Interrupted`].
    pub(crate) async fn until_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let grace = async {
            self.stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            done = work => done,
            () = grace => Err(PipelineError::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn job() -> Job {
        let config = Config::parse(
            "[dataset]\nname = \"d\"\nseed = 1\nstore = \"memory://\"\n[[source]]\nname = \"s\"\nformat = \"folder\"\nurl = \"x\"\n",
            Path::new("d.toml"),
        );
        Job::new(config.expect("a good configuration"), Store::open("memory://", Path::new("")).expect("memory"), Progress::silent())
    }

    #[tokio::test]
    async fn a_call_that_does_not_come_back_is_given_up() {
        let job = job();
        job.stop.cancel();
        let call = async {
            tokio::task::spawn_blocking(|| std::thread::sleep(GRACE * 3)).await.expect("it sleeps");
            Ok(())
        };
        assert!(matches!(job.until_stopped(call).await, Err(PipelineError::Interrupted)));
    }

    #[tokio::test]
    async fn work_that_ends_in_time_keeps_its_result() {
        let job = job();
        job.stop.cancel();
        assert_eq!(job.until_stopped(async { Ok(7) }).await.expect("done"), 7);
        assert!(matches!(job.safe_point(), Err(PipelineError::Interrupted)));
    }
}
