//! The one place that a run tells what it does: to people (a line per stage on a terminal, a plain line now and then elsewhere), to programs
//! (`--json`), to metrics and to the events file of the run.

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
use crate::events::{Elsewhere, Event, Told};
use crate::store;
use crate::store::RequestCounts;
use crate::terminal::printable;

/// How often a plain line is written.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Where progress goes.
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
    /// Whether each event is printed to standard output as JSON.
    is_json: AtomicBool,
    meters: Meters,
    tally: Mutex<Tally>,
    /// Requests of processes that make units for this run.
    requests_elsewhere: Mutex<RequestCounts>,
    /// Where events wait for the events file, while a run is recorded.
    recording: Mutex<Option<SharedBuffer>>,
    samples_total: AtomicU64,
    samples_done: AtomicU64,
    /// When the first samples were expected.
    start: OnceLock<Instant>,
    bars: Mutex<HashMap<&'static str, ProgressBar>>,
}

impl Progress {
    /// Progress on standard error: bars on a terminal, lines otherwise.
    #[must_use]
    pub fn to_standard_error() -> Self {
        let target = if std::io::stderr().is_terminal() {
            Target::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Target::Plain
        };
        Self::new(target)
    }

    /// Progress that nobody sees.
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
            requests_elsewhere: Mutex::default(),
            recording: Mutex::default(),
            samples_total: AtomicU64::new(0),
            samples_done: AtomicU64::new(0),
            start: OnceLock::new(),
            bars: Mutex::default(),
        }))
    }

    /// From now on prints each event to standard output too, as one JSON object a line.
    pub fn print_events(&self) {
        self.0.is_json.store(true, Ordering::Relaxed);
    }

    /// Meters of the stages.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// What has been told so far, in numbers.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells an event to everyone who listens.
    pub fn tell(&self, event: Event) {
        if let Some(line) = event.line() {
            self.say(&line);
        }
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner).add(&event);
        let is_json = self.0.is_json.load(Ordering::Relaxed);
        // Held until all have been told: everybody gets events in one order, that of their times.
        let recording = self.0.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let is_logged = tracing::enabled!(tracing::Level::INFO);
        if is_json || recording.is_some() || is_logged {
            let line = Told::now(event).to_json();
            tracing::info!(event = line.as_str(), "told");
            if is_json {
                // A reader that went away is no error of ours.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            if let Some(recording) = &*recording {
                recording.lock().unwrap_or_else(PoisonError::into_inner).push(&line);
            }
        }
    }

    /// Takes over what another process told and counted for this run.
    pub(crate) fn include(&self, elsewhere: Elsewhere) {
        elsewhere.stages().for_each(|(stage, counts)| self.0.meters.of(stage).add(counts));
        {
            let mut requests = self.0.requests_elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
            add_requests(&mut requests, &elsewhere.requests);
        }
        elsewhere.events.into_iter().for_each(|event| self.tell(event));
    }

    /// How often stores were asked, by this process and by those that made units for it.
    pub(crate) fn requests(&self) -> RequestCounts {
        let mut all = store::requests();
        add_requests(&mut all, &self.0.requests_elsewhere.lock().unwrap_or_else(PoisonError::into_inner));
        all
    }

    /// Keeps what is told from now on in the returned buffer.
    pub(crate) fn begin_recording(&self) -> SharedBuffer {
        let buffer = SharedBuffer::default();
        *self.0.recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&buffer));
        buffer
    }

    /// Keeps nothing any more.
    pub(crate) fn end_recording(&self) {
        *self.0.recording.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Says one line to a person, above the bars.
    pub fn say(&self, line: &str) {
        match &self.0.target {
            Target::Terminal(bars) => drop(bars.println(printable(line))),
            Target::Plain => eprintln!("{}", printable(line)),
            Target::Silent => {}
        }
    }

    /// Expects so many more samples to go through `prepare`.
    pub fn expect_samples(&self, samples: u64) {
        self.0.start.get_or_init(Instant::now);
        self.0.samples_total.fetch_add(samples, Ordering::Relaxed);
    }

    /// Counts samples that went through `prepare`.
    pub fn finish_samples(&self, samples: u64) {
        self.0.samples_done.fetch_add(samples, Ordering::Relaxed);
    }

    /// Samples that went through `prepare`, and samples that are expected to.
    #[must_use]
    pub fn samples(&self) -> (u64, u64) {
        (self.0.samples_done.load(Ordering::Relaxed), self.0.samples_total.load(Ordering::Relaxed))
    }

    /// A bar over `total` steps, named `name`; in plain mode a line every ten seconds.
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
        Activity { name, total, bar, progress: self.clone(), said: Instant::now() }
    }

    /// Draws the stages until the returned guard is dropped. Call within a tokio runtime.
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
    said: Instant,
}

impl Activity {
    /// Shows that `done` steps are done; `message` says what came of the last.
    pub fn set(&mut self, done: u64, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            None if self.said.elapsed() >= PLAIN_INTERVAL => {
                self.progress.say(&format!("{}: {done} of {}: {message}", self.name, self.total));
                self.said = Instant::now();
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
