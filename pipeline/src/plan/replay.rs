//! Replay of refused rows: a missing image has arrived, or a broken source is whole again.
//!
//! The rows become separate units in a new window. A unit whose bytes did not change gives its refused rows, once. A unit whose file
//! changed is compared row by row with the version. If only refused rows changed, it gives those rows and counts as read from then on.
//! Otherwise the run reads it as a whole, as any run would, and its unchanged rows count as duplicates.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_schemas::{SampleId, columns, rows};
use cm3flow_stages::ChannelLimits;
use cm3flow_stages::ingest::{Ingest, PlannedUnit};
use cm3flow_stages::stage::{Chain, Head, Meters};
use serde::Deserialize;

use crate::catalog::readings::{Readings, file_row, has_row};
use crate::catalog::refused::{RefusedFilter, RefusedSample, matching};
use crate::catalog::units::{Table, UnitPlace, WindowTables};
use crate::catalog::{Catalog, VersionRef};
use crate::config::{Config, Job};
use crate::error::Result;
use crate::source::scan::ingest_of;
use crate::store::Store;

/// Filter for the refused samples to try again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// Filter by stage, reason, source and window.
    pub filter: RefusedFilter,
    /// Version whose refused samples are tried; of the latest if none.
    pub version: Option<VersionRef>,
}

/// Plan of a replay.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Units of refused rows.
    pub units: Vec<PlannedUnit>,
    /// Present units that the run need not read as a whole, since only rows of `units` changed in them.
    pub instead_of: HashSet<SourceUnit>,
}

/// Id of a row, kept or refused.
#[derive(Deserialize)]
struct ReadRow {
    sample_id: SampleId,
    row: u64,
}

/// Units that the sources hold now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present<'a> {
    pub(super) all: &'a [PlannedUnit],
    /// Units that no window holds unchanged.
    pub(super) fresh: &'a [PlannedUnit],
}

/// Inputs of a replay's plan.
struct Planner<'a> {
    config: &'a Config,
    store: &'a Store,
    windows: &'a [WindowRecord],
    readings: Readings<'a>,
}

impl Replay {
    /// Plans which rows of the `present` units to try again on top of `windows`; the windows do not hold the `fresh` ones unchanged.
    ///
    /// # Errors
    /// Those of the store or a source.
    pub(crate) async fn plan(
        job: &Job,
        asked: &ReplayFilter,
        windows: &[WindowRecord],
        Present { all: present, fresh }: Present<'_>,
    ) -> Result<Self> {
        let (config, catalog) = (&*job.config, &job.catalog());
        let fresh: HashSet<&SourceUnit> = fresh.iter().map(|planned| &planned.unit).collect();
        let planner = Planner { config, store: catalog.store(), windows, readings: Readings::new(windows) };
        let mut replay = Self::default();
        for (index, rows) in by_present_unit(planner.candidates(catalog, asked).await?, present) {
            let planned = &present[index];
            let rows: BTreeSet<u64> = rows.into_iter().filter(|row| planner.may_differ(&planned.unit, *row)).collect();
            let is_read = !fresh.contains(&planned.unit);
            if rows.is_empty() || !(is_read || planner.nothing_else_changed(planned, &rows).await?) {
                continue;
            }
            replay.units.push(planned.only(&rows.into_iter().collect::<Vec<_>>())?);
            if !is_read {
                replay.instead_of.insert(planned.unit.clone());
            }
        }
        Ok(replay)
    }

    /// Returns the number of rows to try again.
    pub(crate) fn rows(&self) -> u64 {
        self.units.iter().map(|planned| planned.unit.rows).sum()
    }
}

impl Planner<'_> {
    /// Lists refused samples that the filter admits and that no later window read again.
    async fn candidates(&self, catalog: &Catalog, asked: &ReplayFilter) -> Result<Vec<RefusedSample>> {
        let mut found = matching(self.store, self.windows, &asked.filter, usize::MAX).await?;
        found.retain(|sample| sample.read_again_in.is_none());
        if let Some(version) = &asked.version {
            let of_version = catalog.windows_of(&catalog.version_or_latest(Some(version)).await?).await?;
            let listed = matching(self.store, &of_version, &asked.filter, usize::MAX).await?;
            let place = |sample: &RefusedSample| (sample.source.clone(), sample.file.clone(), sample.file_row);
            let listed: HashSet<_> = listed.iter().map(place).collect();
            found.retain(|sample| listed.contains(&place(sample)));
        }
        Ok(found)
    }

    /// Checks whether reading the row of the present `unit` can give another result: not if a replay has read it from the same bytes.
    fn may_differ(&self, unit: &SourceUnit, row: u64) -> bool {
        let last = self.readings.last(&unit.source, &unit.file, row).map(|place| self.readings.unit(place));
        last.is_none_or(|last| last.only.is_empty() || last.digest != unit.digest)
    }

    /// Checks whether the rows of the present unit, except for `refused`, are those that the windows hold.
    async fn nothing_else_changed(&self, planned: &PlannedUnit, refused: &BTreeSet<u64>) -> Result<bool> {
        let unit = &planned.unit;
        let rest: Vec<u64> = (unit.first_row..unit.first_row + unit.rows).filter(|row| !refused.contains(row)).collect();
        let mut before: HashMap<u64, SampleId> = HashMap::new();
        let places: BTreeSet<UnitPlace> = rest.iter().filter_map(|row| self.readings.last(&unit.source, &unit.file, *row)).collect();
        for place in places {
            self.ids_of(place, &mut before).await?;
        }
        let now = present_ids(ingest_of(self.config, planned.clone())?, &planned.unit).await?;
        Ok(rest.iter().all(|row| before.contains_key(row) && before.get(row) == now.get(row)))
    }

    /// Adds the ids of those rows whose last reading was by the unit at `place`.
    async fn ids_of(&self, place: UnitPlace, ids: &mut HashMap<u64, SampleId>) -> Result<()> {
        let unit = self.readings.unit(place);
        let tables = WindowTables::new(self.store, self.windows);
        for table in [Table::Prepared, Table::RefusedSamples] {
            let visit = |found: ReadRow| {
                let row = file_row(unit, found.row);
                if self.readings.last(&unit.source, &unit.file, row) == Some(place) {
                    ids.insert(row, found.sample_id);
                }
                ControlFlow::Continue(())
            };
            let _ = tables.visit_unit(table, place, &[columns::SAMPLE_ID, columns::ROW], visit).await?;
        }
        Ok(())
    }
}

/// Groups rows of the samples by the index of the present unit that holds them; drops rows that the sources no longer hold.
fn by_present_unit(samples: Vec<RefusedSample>, present: &[PlannedUnit]) -> BTreeMap<usize, BTreeSet<u64>> {
    let mut by_file: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for (index, planned) in present.iter().enumerate() {
        by_file.entry((&planned.unit.source, &planned.unit.file)).or_default().push(index);
    }
    let mut found: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for sample in samples {
        let units = by_file.get(&(sample.source.as_str(), sample.file.as_str())).map_or(&[][..], Vec::as_slice);
        if let Some(&index) = units.iter().find(|index| has_row(&present[**index].unit, sample.file_row)) {
            found.entry(index).or_default().insert(sample.file_row);
        }
    }
    found
}

/// Returns the ids of the unit's present rows, as `ingest` computes them.
async fn present_ids(ingest: Ingest, unit: &SourceUnit) -> Result<HashMap<u64, SampleId>> {
    let mut batches = Vec::new();
    let collect = |batch| {
        batches.push(rows::read::<ReadRow>(&batch, &[columns::SAMPLE_ID, columns::ROW]));
        Ok(())
    };
    let ingest = Chain::new(Head::Source(Box::new(ingest)));
    ingest.run(&ChannelLimits::default(), &Meters::default(), collect).await?;
    let mut ids = HashMap::new();
    for batch in batches {
        ids.extend(batch?.into_iter().map(|found| (file_row(unit, found.row), found.sample_id)));
    }
    Ok(ids)
}
