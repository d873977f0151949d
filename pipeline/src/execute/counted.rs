//! Record of a window, counted from the records of its units.

use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::unit::UnitRecord;
use cm3flow_schemas::window::WindowRecord;

use crate::catalog::window_record;
use crate::plan::WindowPlan;

/// Units made of one window.
#[derive(Debug)]
pub(crate) struct WindowUnits<'a> {
    /// Prepared units, one for each source unit.
    pub prepared: &'a [UnitRecord],
    /// The window's settled unit.
    pub settled: &'a UnitRecord,
    /// Composed units, one for each source unit.
    pub composed: &'a [UnitRecord],
    /// Packed units, one for each split in the order of [`Split::ALL`].
    pub packed: &'a [UnitRecord],
}

/// Counts the record of the `index`-th window: a function of its plan and units.
pub(crate) fn counted(index: u32, window: &WindowPlan, made: &WindowUnits<'_>) -> WindowRecord {
    let mut record = window_record(index, window.keys.clone());
    record.units.clone_from(&window.units);
    record.quarantined.clone_from(&window.quarantined);
    record.blocklist = window.blocklist;
    record.samples = samples_of(window, made);
    record.licenses.clone_from(&made.settled.licenses);
    for unit in made.composed {
        record.documents.add(unit.documents.as_ref().unwrap_or(&DocumentLedger::default()));
    }
    record.documents.packed = 0;
    for (split, unit) in Split::ALL.into_iter().zip(made.packed) {
        let statistics = unit.statistics.clone().unwrap_or_default();
        record.documents.packed += statistics.tasks.values().map(|task| task.documents).sum::<u64>();
        record.statistics.insert(split.name().to_owned(), statistics);
        record.shards.extend(unit.shards.iter().cloned());
    }
    record
}

/// Adds up the samples: `prepare` counts those that came in and were refused, `settle` the duplicates and blocked ones among the rest.
fn samples_of(window: &WindowPlan, made: &WindowUnits<'_>) -> SampleLedger {
    let mut samples = SampleLedger::default();
    for unit in made.prepared {
        samples.add(unit.samples.as_ref().unwrap_or(&SampleLedger::default()));
    }
    let settled = made.settled.samples.clone().unwrap_or_default();
    (samples.kept, samples.duplicate, samples.withdrawn) = (settled.kept, settled.duplicate, settled.withdrawn);
    samples.dropped.extend(settled.dropped);
    samples.quarantined = window.quarantined.iter().map(|quarantined| quarantined.unit.rows).sum();
    samples.input += samples.quarantined;
    samples
}
