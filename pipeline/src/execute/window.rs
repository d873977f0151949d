//! The record of a window, from the records of its units.

use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::UnitRecord;
use cm3flow_schemas::window::{QuarantinedUnit, SourceUnit, WindowRecord};

use super::task::WindowTask;
use crate::catalog::window_record;

/// Units of a window that have been made.
pub(super) struct Made<'a> {
    pub(super) prepared: Vec<&'a UnitRecord>,
    pub(super) settled: UnitRecord,
    pub(super) composed: Vec<UnitRecord>,
    /// One for each split, in the order of [`Split::ALL`].
    pub(super) packed: Vec<UnitRecord>,
}

impl Made<'_> {
    pub(super) fn record(self, index: u32, units: Vec<SourceUnit>, window: &WindowTask, quarantined: Vec<QuarantinedUnit>) -> WindowRecord {
        let mut record = window_record(index);
        record.samples = self.samples(&quarantined);
        record.units = units;
        record.keys = window.keys.by_segment();
        record.quarantined = quarantined;
        record.blocklist = window.blocklist;
        record.licenses = self.settled.licenses;
        for unit in &self.composed {
            record.documents.add(unit.documents.as_ref().unwrap_or(&DocumentLedger::default()));
        }
        record.documents.packed = 0;
        for (split, unit) in Split::ALL.into_iter().zip(self.packed) {
            let statistics = unit.statistics.unwrap_or_default();
            record.documents.packed += statistics.tasks.values().map(|task| task.documents).sum::<u64>();
            record.statistics.insert(split.name().to_owned(), statistics);
            record.shards.extend(unit.shards);
        }
        record
    }

    /// `prepare` says what came in and was refused, `settle` what of the rest is a duplicate.
    fn samples(&self, quarantined: &[QuarantinedUnit]) -> SampleLedger {
        let mut samples = SampleLedger::default();
        for unit in &self.prepared {
            samples.add(unit.samples.as_ref().unwrap_or(&SampleLedger::default()));
        }
        samples.kept = self.settled.samples.as_ref().map_or(0, |settled| settled.kept);
        samples.duplicate = self.settled.samples.as_ref().map_or(0, |settled| settled.duplicate);
        samples.quarantined = quarantined.iter().map(|quarantined| quarantined.unit.rows).sum();
        samples.input += samples.quarantined;
        samples
    }
}
