//! The stages as a person sees them: rows, rates, queues, and the bottleneck.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{PLAIN_INTERVAL, Progress, Target};

/// Time between two drawings on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);

/// Draws the stages while it lives.
#[derive(Debug)]
pub struct StageWatch(Option<(tokio::task::JoinHandle<()>, Progress)>);

/// Counts of a stage at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    rows: u64,
    busy: Duration,
}

impl StageWatch {
    pub(super) fn begin(progress: &Progress) -> Self {
        let progress = progress.clone();
        let interval = match progress.0.target {
            Target::Terminal(_) => TERMINAL_INTERVAL,
            Target::Plain => PLAIN_INTERVAL,
            Target::Silent => return Self(None),
        };
        let drawn = progress.clone();
        let task = tokio::spawn(async move {
            let mut before: HashMap<&'static str, Reading> = HashMap::new();
            loop {
                tokio::time::sleep(interval).await;
                drawn.draw(&mut before, interval);
            }
        });
        Self(Some((task, progress)))
    }
}

impl Drop for StageWatch {
    fn drop(&mut self) {
        if let Some((task, progress)) = self.0.take() {
            task.abort();
            let mut bars = progress.0.bars.lock().unwrap_or_else(PoisonError::into_inner);
            bars.drain().for_each(|(_, bar)| bar.finish_and_clear());
        }
    }
}

impl Progress {
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
        let (done, total) = self.samples();
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
