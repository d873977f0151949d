//! Tally: counts of events, which metrics read.

use std::collections::BTreeMap;

use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::unit::SegmentName;

use crate::events::{Event, Reasons, UnitsPlanned};

/// State of a unit, or outcome of an attempt at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitState {
    /// The run made it.
    Made,
    /// It existed before.
    There,
    /// An attempt failed.
    Failed,
    /// Another attempt began.
    Retried,
    /// It had no attempts left.
    Quarantined,
    /// The run made it, but another attempt had made it with other contents first.
    Discarded,
}

impl UnitState {
    /// Returns the value of the label `state`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::There => "there",
            Self::Failed => "failed",
            Self::Retried => "retried",
            Self::Quarantined => "quarantined",
            Self::Discarded => "discarded",
        }
    }
}

/// Counts of the events so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Numbers of units of the plan by segment.
    pub planned: BTreeMap<SegmentName, UnitsPlanned>,
    /// Number of the plan's windows that are not in the base version.
    pub windows_planned: u64,
    /// Numbers of units by segment and state.
    pub units: BTreeMap<(SegmentName, UnitState), u64>,
    /// Bytes of the files of units that this run made, by segment.
    pub unit_bytes: BTreeMap<SegmentName, u64>,
    /// Refused samples and documents by segment and reason.
    pub refused: BTreeMap<SegmentName, Reasons>,
    /// Number of windows that this run committed.
    pub windows: u64,
    /// Counts of samples in these windows.
    pub samples: SampleLedger,
    /// Counts of documents in these windows.
    pub documents: DocumentLedger,
    /// Version that the run published.
    pub version: Option<u32>,
    /// Last step of the training, with its loss in nats per token.
    pub training: Option<(u64, Option<f64>)>,
    /// Number of checkpoints written.
    pub checkpoints: u64,
}

impl Tally {
    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::PlanMade { units, .. } => {
                self.planned.clone_from(units);
                // Each window has one unit in this segment.
                self.windows_planned = units.get(&SegmentName::Settle).map_or(0, |units| units.to_make);
            }
            Event::UnitDone { segment, bytes, was_there, refused, .. } => {
                self.count(*segment, if *was_there { UnitState::There } else { UnitState::Made });
                if !was_there {
                    *self.unit_bytes.entry(*segment).or_default() += bytes;
                }
                let reasons = self.refused.entry(*segment).or_default();
                refused.iter().for_each(|(reason, count)| *reasons.entry(reason.clone()).or_default() += count);
            }
            Event::UnitFailed { segment, .. } => self.count(*segment, UnitState::Failed),
            Event::UnitRetried { segment, .. } => self.count(*segment, UnitState::Retried),
            Event::UnitQuarantined { segment, .. } => self.count(*segment, UnitState::Quarantined),
            Event::UnitDiscarded { segment, .. } => self.count(*segment, UnitState::Discarded),
            Event::WindowCommitted { was_there: false, samples, documents, .. } => {
                self.windows += 1;
                self.samples.add(samples);
                self.documents.add(documents);
            }
            Event::VersionPublished { version, .. } => self.version = Some(*version),
            Event::TrainingStep { step, loss, .. } => self.training = Some((*step, *loss)),
            Event::CheckpointWritten { .. } => self.checkpoints += 1,
            _ => {}
        }
    }

    fn count(&mut self, segment: SegmentName, state: UnitState) {
        *self.units.entry((segment, state)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::Digest;

    use super::*;

    #[test]
    fn windows_of_the_base_are_not_counted_as_work_of_this_run() {
        let mut tally = Tally::default();
        let window = |was_there| Event::WindowCommitted {
            window: 0,
            windows: 2,
            was_there,
            shards: 1,
            samples: SampleLedger { input: 5, kept: 5, ..SampleLedger::default() },
            documents: DocumentLedger::default(),
        };
        tally.add(&window(true));
        tally.add(&window(false));
        assert_eq!((tally.windows, tally.samples.input), (1, 5));
    }

    #[test]
    fn units_are_counted_by_what_came_of_them() {
        let mut tally = Tally::default();
        let (segment, key) = (SegmentName::Prepare, Digest::of(b"unit"));
        let done = |was_there| Event::UnitDone {
            segment,
            key,
            rows: 2,
            bytes: 10,
            was_there,
            seconds: 0.0,
            refused: Reasons::from([("filter.too_small".into(), 1)]),
        };
        tally.add(&Event::UnitFailed { segment, key, problem: "once".into() });
        tally.add(&done(false));
        tally.add(&done(true));
        assert_eq!(
            tally.units,
            BTreeMap::from([((segment, UnitState::Made), 1), ((segment, UnitState::There), 1), ((segment, UnitState::Failed), 1)])
        );
        assert_eq!((tally.unit_bytes[&segment], tally.refused[&segment]["filter.too_small"]), (10, 2));
    }
}
