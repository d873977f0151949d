//! Events file of a run: `runs/<run>/events/<k>.jsonl`, in small numbered objects, since the store changes no object.
//!
//! It serves people who look at a run, and never makes one fail: lines that cannot be written wait in a bounded buffer, with one warning.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cm3flow_schemas::layout;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::buffer::SharedBuffer;
use super::{Event, TimedEvent};
use crate::events::progress::Progress;
use crate::store::{Created, Store};

/// Time between the first objects. It doubles with each one, so that a run of days does not write thousands.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time between two objects.
const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Longest wait of a run's end for the last object.
const LAST_FLUSH: Duration = Duration::from_secs(20);

/// Writes events into the store, from [`Recording::begin`] to [`Recording::finish`].
#[derive(Debug)]
pub struct Recording {
    progress: Progress,
    ended: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Recording {
    /// Records the events of `progress` below `run_folder`. Call within a tokio runtime.
    #[must_use]
    pub fn begin(progress: &Progress, store: &Store, run_folder: &str) -> Self {
        let ended = Arc::new(Notify::new());
        let task = tokio::spawn(Writer::new(progress, store, run_folder).run(Arc::clone(&ended)));
        Self { progress: progress.clone(), ended, task }
    }

    /// Writes the remaining events and ends.
    pub async fn finish(mut self) {
        self.ended.notify_one();
        if tokio::time::timeout(LAST_FLUSH, &mut self.task).await.is_err() {
            tracing::warn!(seconds = LAST_FLUSH.as_secs(), "the last events of the run could not be written in time");
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.progress.end_recording();
        self.task.abort();
    }
}

struct Writer {
    progress: Progress,
    store: Store,
    folder: String,
    buffer: SharedBuffer,
    next: u32,
    has_warned: bool,
}

impl Writer {
    fn new(progress: &Progress, store: &Store, run_folder: &str) -> Self {
        Self {
            progress: progress.clone(),
            store: store.clone(),
            folder: layout::events(run_folder),
            buffer: progress.begin_recording(),
            next: 0,
            has_warned: false,
        }
    }

    async fn run(mut self, ended: Arc<Notify>) {
        let mut interval = FIRST_INTERVAL;
        loop {
            let is_last = tokio::select! {
                () = tokio::time::sleep(interval) => false,
                () = ended.notified() => true,
            };
            interval = (interval * 2).min(MAX_INTERVAL);
            self.flush().await;
            if is_last {
                return;
            }
        }
    }

    async fn flush(&mut self) {
        let lines = {
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let lost = std::mem::take(&mut buffer.lost);
            let mut lines = std::mem::take(&mut buffer.lines);
            if lost > 0 {
                lines.push_str(&TimedEvent::now(Event::EventsLost { count: lost }).to_json());
                lines.push('\n');
            }
            lines
        };
        if !lines.is_empty()
            && let Err(error) = self.write(&lines).await
        {
            if !std::mem::replace(&mut self.has_warned, true) {
                self.progress.say(&format!("events of this run cannot be written for now: {error}"));
            }
            // These lines go back to the front: events since then come after them.
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let since = std::mem::replace(&mut buffer.lines, lines);
            since.lines().for_each(|line| buffer.push(line));
        }
    }

    async fn write(&mut self, lines: &str) -> crate::Result<()> {
        loop {
            let path = format!("{}/{}.jsonl", self.folder, self.next);
            let created = self.store.create(&path, lines.to_owned()).await?;
            self.next += 1;
            // The number is taken if a seemingly failed attempt was written after all.
            if created != Created::Different {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    async fn recorded(store: &Store) -> Vec<Event> {
        let mut events = Vec::new();
        for name in store.names("runs/r/events").await.expect("memory") {
            let bytes = store.get(&format!("runs/r/events/{name}")).await.expect("memory").expect("just listed");
            let text = String::from_utf8(bytes.to_vec()).expect("JSON");
            events.extend(text.lines().map(|line| serde_json::from_str::<TimedEvent>(line).expect("an event").event));
        }
        events
    }

    #[tokio::test]
    async fn events_are_written_in_order_flush_by_flush() {
        let store = Store::open("memory://", Path::new("")).expect("memory");
        let progress = Progress::silent();
        let mut writer = Writer::new(&progress, &store, "runs/r");
        writer.flush().await;
        progress.tell(Event::EventsLost { count: 1 });
        writer.flush().await;
        progress.tell(Event::EventsLost { count: 2 });
        progress.tell(Event::Stopping);
        writer.flush().await;
        assert_eq!(store.names("runs/r/events").await.expect("memory"), ["0.jsonl", "1.jsonl"]);
        assert_eq!(recorded(&store).await, [Event::EventsLost { count: 1 }, Event::EventsLost { count: 2 }, Event::Stopping]);
    }

    #[tokio::test]
    async fn the_end_writes_what_is_left_and_nothing_is_recorded_afterwards() {
        let store = Store::open("memory://", Path::new("")).expect("memory");
        let progress = Progress::silent();
        let recording = Recording::begin(&progress, &store, "runs/r");
        progress.tell(Event::Stopping);
        recording.finish().await;
        progress.tell(Event::EventsLost { count: 3 });
        assert_eq!(recorded(&store).await, [Event::Stopping]);
    }

    #[tokio::test]
    async fn events_that_cannot_be_written_wait() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("store").display().to_string(), Path::new("")).expect("a local store");
        let progress = Progress::silent();
        let mut writer = Writer::new(&progress, &store, "runs/r");
        // A file lies where the store needs a folder.
        std::fs::write(folder.path().join("store/runs"), "").expect("a temporary folder");
        progress.tell(Event::Stopping);
        writer.flush().await;
        assert!(writer.has_warned);
        std::fs::remove_file(folder.path().join("store/runs")).expect("just written");
        progress.tell(Event::EventsLost { count: 1 });
        writer.flush().await;
        assert_eq!(recorded(&store).await, [Event::Stopping, Event::EventsLost { count: 1 }]);
    }

    #[tokio::test]
    async fn a_number_that_is_taken_is_passed_over() {
        let store = Store::open("memory://", Path::new("")).expect("memory");
        store.create("runs/r/events/0.jsonl", "{\"at\":\"\",\"event\":\"stopping\"}\n").await.expect("memory");
        let progress = Progress::silent();
        let recording = Recording::begin(&progress, &store, "runs/r");
        progress.tell(Event::EventsLost { count: 1 });
        recording.finish().await;
        assert_eq!(recorded(&store).await, [Event::Stopping, Event::EventsLost { count: 1 }]);
    }
}
