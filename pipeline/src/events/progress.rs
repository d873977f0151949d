//! Progress of a command: the one receiver of events. It passes them to people (a line per stage on a terminal, now and then a plain
//! line elsewhere), to programs (`--json`), to metrics and to the run's events file.

mod draw;
mod tally;

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cm3flow_stages::stage::Meters;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

pub use draw::StageWatch;
pub use tally::{Tally, UnitState};

use crate::events::buffer::SharedBuffer;
use crate::events::{Event, RemoteReport, TimedEvent};
use crate::store;
use crate::store::RequestCounts;
use crate::terminal::printable;

/// Time between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Destination of output for people.
#[derive(Debug, Clone)]
enum Target {
    Terminal(MultiProgress),
    Plain,
    Silent,
}

/// Progress of a command. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    target: Target,
    /// `true` if each event is printed to standard output as JSON.
    is_json: AtomicBool,
    meters: Meters,
    tally: Mutex<Tally>,
    /// Requests of worker processes of this run.
    remote_requests: Mutex<RequestCounts>,
    /// Buffer of events for the events file, while a run is recorded.
    recording: Mutex<Option<SharedBuffer>>,
    samples_total: AtomicU64,
    samples_done: AtomicU64,
    /// Time at which the first samples were expected.
    start: OnceLock<Instant>,
    bars: Mutex<HashMap<&'static str, ProgressBar>>,
}

impl Progress {
    /// Makes progress on standard error: bars on a terminal, lines otherwise.
    #[must_use]
    pub fn to_standard_error() -> Self {
        let target = if std::io::stderr().is_terminal() {
            Target::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Target::Plain
        };
        Self::new(target)
    }

    /// Makes progress without output.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(Target::Silent)
    }

    fn new(target: Target) -> Self {
        Self(Arc::new(Shared {
            target,
            is_json: AtomicBool::new(false),
            meters: Meters::default(),
            tally: Mutex::default(),
            remote_requests: Mutex::default(),
            recording: Mutex::default(),
            samples_total: AtomicU64::new(0),
            samples_done: AtomicU64::new(0),
            start: OnceLock::new(),
            bars: Mutex::default(),
        }))
    }

    /// Prints each event to standard output from now on, as one JSON object a line.
    pub fn print_events(&self) {
        self.0.is_json.store(true, Ordering::Relaxed);
    }

    /// Returns the meters of the stages.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// Returns the counts of all events so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Announces an event: to people, the tally, the log, standard output and the recording.
    pub fn tell(&self, event: Event) {
        if let Some(line) = event.line() {
            self.say(&line);
        }
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner).add(&event);
        let is_json = self.0.is_json.load(Ordering::Relaxed);
        // The lock is held until all receivers have the event: they all get events in the order of their times.
        let recording = self.0.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let is_logged = tracing::enabled!(tracing::Level::INFO);
        if is_json || recording.is_some() || is_logged {
            let line = TimedEvent::now(event).to_json();
            tracing::info!(event = line.as_str(), "told");
            if is_json {
                // A reader that went away is no error.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            if let Some(recording) = &*recording {
                recording.lock().unwrap_or_else(PoisonError::into_inner).push(&line);
            }
        }
    }

    /// Takes over events and counts of a worker process of this run.
    pub(crate) fn include(&self, report: RemoteReport) {
        report.stages.iter().for_each(|(stage, counts)| self.0.meters.named(stage).add(counts));
        {
            let mut requests = self.0.remote_requests.lock().unwrap_or_else(PoisonError::into_inner);
            add_requests(&mut requests, &report.requests);
        }
        report.events.into_iter().for_each(|event| self.tell(event));
    }

    /// Returns the numbers of requests to stores by this process and its worker processes.
    pub(crate) fn requests(&self) -> RequestCounts {
        let mut all = store::requests();
        add_requests(&mut all, &self.0.remote_requests.lock().unwrap_or_else(PoisonError::into_inner));
        all
    }

    /// Records events from now on in the returned buffer.
    pub(crate) fn begin_recording(&self) -> SharedBuffer {
        let buffer = SharedBuffer::default();
        *self.0.recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&buffer));
        buffer
    }

    /// Ends the recording.
    pub(crate) fn end_recording(&self) {
        *self.0.recording.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Writes one line for people, above the bars.
    pub fn say(&self, line: &str) {
        match &self.0.target {
            Target::Terminal(bars) => drop(bars.println(printable(line))),
            Target::Plain => eprintln!("{}", printable(line)),
            Target::Silent => {}
        }
    }

    /// Adds to the number of samples that are expected to go through `prepare`.
    pub fn expect_samples(&self, samples: u64) {
        self.0.start.get_or_init(Instant::now);
        self.0.samples_total.fetch_add(samples, Ordering::Relaxed);
    }

    /// Counts samples that went through `prepare`.
    pub fn finish_samples(&self, samples: u64) {
        self.0.samples_done.fetch_add(samples, Ordering::Relaxed);
    }

    /// Returns the number of samples that went through `prepare`, and of those expected to.
    #[must_use]
    pub fn samples(&self) -> (u64, u64) {
        (self.0.samples_done.load(Ordering::Relaxed), self.0.samples_total.load(Ordering::Relaxed))
    }

    /// Shows a bar named `name` over `total` steps; in plain mode a line every ten seconds.
    #[must_use]
    pub fn activity(&self, name: &'static str, total: u64) -> Activity {
        let bar = match &self.0.target {
            Target::Terminal(bars) => {
                let bar = bars.add(ProgressBar::new(total));
                let style = ProgressStyle::with_template("{prefix:>10} {bar:24} {pos}/{len}  {msg}  eta {eta}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_prefix(name);
                Some(bar)
            }
            Target::Plain | Target::Silent => None,
        };
        Activity { name, total, bar, progress: self.clone(), pace: Pace::new() }
    }

    /// Draws the stages until the caller drops the returned guard. Call within a tokio runtime.
    #[must_use]
    pub fn watch_stages(&self) -> StageWatch {
        StageWatch::begin(self)
    }
}

fn add_requests(all: &mut RequestCounts, more: &RequestCounts) {
    for (action, requests) in more {
        let sum = all.entry(action.clone()).or_default();
        sum.sent += requests.sent;
        sum.retried += requests.retried;
    }
}

/// A bar over a known number of steps.
#[derive(Debug)]
pub struct Activity {
    name: &'static str,
    total: u64,
    bar: Option<ProgressBar>,
    progress: Progress,
    pace: Pace,
}

/// Pace of the lines of an activity where no bar is drawn: one at each tenth of the steps, and one where none came for a while. Logs of long
/// activities stay short, and silence never lasts.
#[derive(Debug)]
struct Pace {
    tenths: u64,
    said: Instant,
}

impl Pace {
    /// Longest time without a line.
    const SILENCE: Duration = Duration::from_secs(30);
    /// Lines are not closer than this.
    const CLOSEST: Duration = Duration::from_secs(1);

    fn new() -> Self {
        Self { tenths: 0, said: Instant::now() }
    }

    /// Checks whether a line is due when `done` of `total` steps are done at the moment `now`, and counts on it being written.
    fn is_due(&mut self, done: u64, total: u64, now: Instant) -> bool {
        let (tenths, since) = (done.saturating_mul(10) / total.max(1), now.saturating_duration_since(self.said));
        let is_due = since >= Self::SILENCE || (tenths > self.tenths && (since >= Self::CLOSEST || done == total));
        if is_due {
            *self = Self { tenths, said: now };
        }
        is_due
    }
}

impl Activity {
    /// Shows that `done` steps are done, with a `message` about the last one.
    pub fn set(&mut self, done: u64, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            None if self.pace.is_due(done, self.total, Instant::now()) => {
                self.progress.say(&format!("{}: {done} of {}: {message}", self.name, self.total));
            }
            None => {}
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps at which lines come, of `total` steps that take `step_ms` each.
    fn lines(total: u64, step_ms: u64) -> Vec<u64> {
        let (start, mut pace) = (Instant::now(), Pace::new());
        (1..=total).filter(|step| pace.is_due(*step, total, start + Duration::from_millis(step * step_ms))).collect()
    }

    #[test]
    fn each_tenth_has_a_line() {
        assert_eq!(lines(200, 100), [20, 40, 60, 80, 100, 120, 140, 160, 180, 200]);
    }

    #[test]
    fn long_steps_have_a_line_every_half_minute() {
        assert_eq!(lines(1000, 1_000)[..4], [31, 61, 91, 100]);
    }

    #[test]
    fn a_quick_activity_has_few_lines() {
        assert_eq!(lines(100, 1), [100]);
    }
}
