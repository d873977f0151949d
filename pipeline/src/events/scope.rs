//! Scope of a run: its name, beginning, recording and end.

use std::time::Instant;

use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::layout;
use tracing::Instrument;

use super::{Event, Recording, RunEnd};
use crate::error::Result;
use crate::events::progress::Progress;
use crate::store::Store;

/// A run from its beginning to its end.
#[derive(Debug)]
pub(crate) struct RunScope<'a> {
    store: &'a Store,
    progress: &'a Progress,
    dataset: &'a str,
    /// Name of the run: time of its beginning, and a suffix against a run that begins in the same millisecond.
    pub(crate) name: String,
}

impl<'a> RunScope<'a> {
    pub(crate) fn begin(store: &'a Store, progress: &'a Progress, dataset: &'a str) -> Self {
        let now = chrono::Utc::now();
        let apart = digest_of("run", &(std::process::id(), now.timestamp_nanos_opt())).short();
        let name = format!("{}-{}", now.format("%Y%m%dT%H%M%S%3fZ"), &apart[..4]);
        Self { store, progress, dataset, name }
    }

    /// Returns the run's folder in the store.
    pub(crate) fn folder(&self) -> String {
        layout::run(&self.name)
    }

    /// Does `work` and records it from its first to its last event; `end` makes the last one from the result.
    pub(crate) async fn record<T>(&self, work: impl Future<Output = Result<T>>, end: impl FnOnce(&T) -> RunEnd) -> Result<T> {
        let begun = Instant::now();
        let recording = Recording::begin(self.progress, self.store, &self.folder());
        let (run, dataset) = (self.name.as_str(), self.dataset);
        self.progress.tell(Event::RunStarted {
            run: run.to_owned(),
            dataset: dataset.to_owned(),
            cm3flow: env!("CARGO_PKG_VERSION").to_owned(),
        });
        // The highest level, so that log lines of every level carry the run's fields.
        let outcome = work.instrument(tracing::error_span!("run", run, dataset)).await;
        let end = outcome.as_ref().map_or_else(RunEnd::failed, end);
        self.progress.tell(Event::RunEnded { end, seconds: begun.elapsed().as_secs_f64() });
        recording.finish().await;
        outcome
    }
}
