//! Feed of a run: passes windows to readers as they are committed, in order.

use cm3flow_schemas::window::WindowRecord;
use cm3flow_stages::StageError;
use cm3flow_stages::error::Result;
use cm3flow_stages::read::{WindowFeed, WindowShards};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

/// Windows committed so far.
#[derive(Debug, Default)]
struct Committed {
    windows: Vec<WindowShards>,
    complete: bool,
    given_up: bool,
}

/// The windows of a run in this process, or of a published version. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Followed(std::sync::Arc<watch::Sender<Committed>>);

impl Default for Followed {
    fn default() -> Self {
        Self(std::sync::Arc::new(watch::Sender::new(Committed::default())))
    }
}

impl Followed {
    /// Makes the complete feed of a published version.
    #[must_use]
    pub fn published(windows: &[WindowRecord]) -> Self {
        let followed = Self::default();
        windows.iter().for_each(|window| followed.commit(window.shards.clone()));
        followed.complete();
        followed
    }

    /// Announces the next window.
    pub(crate) fn commit(&self, shards: WindowShards) {
        self.0.send_modify(|committed| {
            if !committed.given_up {
                committed.windows.push(shards);
            }
        });
    }

    /// Announces that later windows differ from the plan: readers get the windows up to here, then an error.
    pub(crate) fn give_up(&self) {
        self.0.send_modify(|committed| committed.given_up = true);
    }

    /// Announces that no window follows. A run that is dropped without this has stopped.
    pub(crate) fn complete(&self) {
        self.0.send_modify(|committed| committed.complete = !committed.given_up);
    }

    /// Returns a feed from the first window on.
    #[must_use]
    pub fn feed(&self) -> Feed {
        Feed(self.0.subscribe())
    }
}

/// [`WindowFeed`] of a [`Followed`].
#[derive(Debug, Clone)]
pub struct Feed(watch::Receiver<Committed>);

impl Feed {
    /// Checks whether the run stopped before its last window.
    #[must_use]
    pub(crate) fn has_stopped(&self) -> bool {
        let committed = self.0.borrow();
        !committed.complete && (committed.given_up || self.0.has_changed().is_err())
    }

    /// Returns the shards of the windows that a reader at `position` has reached: those with the packs of `split` before it.
    #[must_use]
    pub(crate) fn reached(&self, position: u64, split: cm3flow_schemas::sample::Split) -> Vec<WindowShards> {
        let committed = self.0.borrow();
        let mut packs = 0;
        let mut reached = Vec::new();
        for window in &committed.windows {
            if packs >= position {
                break;
            }
            packs += window.iter().filter(|shard| shard.split == split).map(|shard| shard.packs).sum::<u64>();
            reached.push(window.clone());
        }
        reached
    }
}

impl WindowFeed for Feed {
    fn window(&mut self, index: usize) -> BoxFuture<'_, Result<Option<WindowShards>>> {
        async move {
            let is_ready = |committed: &Committed| committed.windows.len() > index || committed.complete || committed.given_up;
            match self.0.wait_for(is_ready).await {
                Ok(committed) if committed.windows.len() > index || !committed.given_up => Ok(committed.windows.get(index).cloned()),
                _ => Err(StageError::RunStopped { windows: index }),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_feed_waits_for_the_next_window() {
        let followed = Followed::default();
        let mut feed = followed.feed();
        followed.commit(Vec::new());
        assert_eq!(feed.window(0).await.expect("committed"), Some(Vec::new()));
        let waiting = tokio::spawn(async move { feed.window(1).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        followed.complete();
        assert_eq!(waiting.await.expect("task").expect("complete"), None);
    }

    #[tokio::test]
    async fn a_run_that_stops_is_an_error() {
        let followed = Followed::default();
        let mut feed = followed.feed();
        drop(followed);
        assert!(matches!(feed.window(0).await, Err(StageError::RunStopped { windows: 0 })));
    }
}
