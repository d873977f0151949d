//! The other side of [`RemoteReport`]: gathers it in a process that makes units for a run.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use cm3flow_stages::StageCounts;

use super::buffer::SharedBuffer;
use super::progress::Progress;
use super::{Event, RemoteReport, TimedEvent};
use crate::store::{RequestCounts, requests};

/// Gathers the events and counts of this process for its reports.
pub(crate) struct Reporter {
    progress: Progress,
    events: SharedBuffer,
    stages: BTreeMap<&'static str, StageCounts>,
    requests: RequestCounts,
}

impl Reporter {
    /// Gathers the events of `progress` from now on.
    pub(crate) fn begin(progress: &Progress) -> Self {
        // Requests from before the first unit count with that unit.
        Self { progress: progress.clone(), events: progress.begin_recording(), stages: BTreeMap::new(), requests: RequestCounts::new() }
    }

    /// Returns the news since the last report.
    pub(crate) fn report(&mut self) -> RemoteReport {
        let lines = self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut found = RemoteReport { events: lines.lines().filter_map(event_of).collect(), ..RemoteReport::default() };
        for meter in self.progress.meters().all() {
            let now = meter.counts();
            let before = self.stages.insert(meter.stage, now).unwrap_or_default();
            if now != before {
                found.stages.insert(meter.stage.to_owned(), now.since(&before));
            }
        }
        let now = requests();
        for (action, requests) in &now {
            let before = self.requests.get(action).copied().unwrap_or_default();
            if *requests != before {
                found.requests.insert(action.clone(), requests.since(before));
            }
        }
        self.requests = now;
        found
    }
}

fn event_of(line: &str) -> Option<Event> {
    serde_json::from_str::<TimedEvent>(line).ok().map(|told| told.event)
}

#[cfg(test)]
mod tests {
    use cm3flow_stages::filter;

    use super::*;

    #[test]
    fn what_is_counted_and_told_elsewhere_comes_in_once() {
        let (there, here) = (Progress::silent(), Progress::silent());
        let mut reporter = Reporter::begin(&there);
        let counts = StageCounts { rows_in: 5, rows_out: 4, ..StageCounts::default() };
        for _ in 0..2 {
            there.meters().of(filter::NAME).add(&counts);
            there.tell(Event::Stopping);
            let line = serde_json::to_string(&reporter.report()).expect("plain");
            here.include(serde_json::from_str(&line).expect("its own form"));
        }
        let meter = here.meters().of(filter::NAME);
        assert_eq!((meter.rows_in(), meter.rows_out()), (10, 8));
        assert!(reporter.report().stages.is_empty() && reporter.report().events.is_empty());
    }
}
