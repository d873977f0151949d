//! What a person sees while a run is on its way: a line per stage on a terminal, a plain line now and then elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cm3flow_stages::stage::Meters;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a terminal is drawn anew.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);
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
    meters: Meters,
    samples_total: AtomicU64,
    samples_done: AtomicU64,
    /// When the first samples were expected.
    start: OnceLock<Instant>,
    bars: Mutex<HashMap<&'static str, ProgressBar>>,
}

/// Counts of a stage at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    rows: u64,
    busy: Duration,
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
        let (samples_total, samples_done) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Shared {
            target,
            meters: Meters::default(),
            samples_total,
            samples_done,
            start: OnceLock::new(),
            bars: Mutex::default(),
        }))
    }

    /// Meters of the stages.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// Says one line, above the bars.
    pub fn say(&self, line: &str) {
        match &self.0.target {
            Target::Terminal(bars) => drop(bars.println(line)),
            Target::Plain => eprintln!("{line}"),
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
        let progress = self.clone();
        let interval = match self.0.target {
            Target::Terminal(_) => TERMINAL_INTERVAL,
            Target::Plain => PLAIN_INTERVAL,
            Target::Silent => return StageWatch(None),
        };
        let task = tokio::spawn(async move {
            let mut before: HashMap<&'static str, Reading> = HashMap::new();
            loop {
                tokio::time::sleep(interval).await;
                progress.draw(&mut before, interval);
            }
        });
        StageWatch(Some((task, self.clone())))
    }

    fn draw(&self, before: &mut HashMap<&'static str, Reading>, interval: Duration) {
        let mut lines = Vec::new();
        let mut busiest = ("", Duration::ZERO);
        for meter in self.0.meters.all() {
            let now = Reading { rows: meter.rows_in().max(meter.rows_out()), busy: meter.busy() };
            let then = before.insert(meter.stage, now).unwrap_or_default();
            let busy = now.busy.saturating_sub(then.busy);
            if busy > busiest.1 {
                busiest = (meter.stage, busy);
            }
            let rate = (now.rows - then.rows) as f64 / interval.as_secs_f64();
            lines.push((meter.stage, now.rows, rate, meter.queued(), busy.as_secs_f64() / interval.as_secs_f64()));
        }
        match &self.0.target {
            Target::Terminal(bars) => {
                for (stage, rows, rate, queued, busy) in lines {
                    let mark = if stage == busiest.0 { "  <- bottleneck" } else { "" };
                    let line = format!("{stage:>10}  {rows:>8} rows  {rate:>8.1}/s  queue {queued}  busy {:>4.0} %{mark}", busy * 100.0);
                    self.bar(bars, stage).set_message(line);
                }
                self.bar(bars, "eta").set_message(self.estimate());
            }
            Target::Plain => {
                let active = lines.iter().filter(|(_, _, rate, ..)| *rate > 0.0);
                let rates: Vec<String> =
                    active.map(|(stage, _, rate, queued, _)| format!("{stage} {rate:.1}/s (queue {queued})")).collect();
                if !rates.is_empty() {
                    eprintln!("{}; bottleneck: {}; {}", rates.join(", "), busiest.0, self.estimate());
                }
            }
            Target::Silent => {}
        }
    }

    fn bar(&self, bars: &MultiProgress, name: &'static str) -> ProgressBar {
        let mut known = self.0.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = known.entry(name).or_insert_with(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        bar.clone()
    }

    fn estimate(&self) -> String {
        let (total, done) = (self.0.samples_total.load(Ordering::Relaxed), self.0.samples_done.load(Ordering::Relaxed));
        if total == 0 {
            return "nothing to prepare".into();
        }
        if done == 0 {
            return format!("0 of {total} samples prepared");
        }
        let left = self.0.start.get_or_init(Instant::now).elapsed().as_secs_f64() / done as f64 * total.saturating_sub(done) as f64;
        format!("{done} of {total} samples prepared, about {left:.0} s to go")
    }
}

/// Draws the stages while it lives.
#[derive(Debug)]
pub struct StageWatch(Option<(tokio::task::JoinHandle<()>, Progress)>);

impl Drop for StageWatch {
    fn drop(&mut self) {
        if let Some((task, progress)) = self.0.take() {
            task.abort();
            let mut bars = progress.0.bars.lock().unwrap_or_else(PoisonError::into_inner);
            bars.drain().for_each(|(_, bar)| bar.finish_and_clear());
        }
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
