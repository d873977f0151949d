//! Refused samples: each is listed with its reason, none is lost in silence, and a replay can try them again.

use cm3flow_schemas::ledger::SampleLedger;
use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_schemas::{Digest, SampleId, columns, layout, rows};
use serde::{Deserialize, Serialize};

use super::readings::{Readings, file_row};
use crate::catalog::units::{Table, UnitStore};
use crate::error::{PipelineError, Result};
use crate::store::Store;

/// A refused sample with its place in the sources and the reason of its refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedSample {
    /// Digest of the sample's images and annotations.
    pub sample_id: SampleId,
    /// Source by its name in the configuration.
    pub source: String,
    /// Name of the sample's file.
    pub file: String,
    /// Row in its file, from 0.
    pub file_row: u64,
    /// Key in the source.
    pub key: String,
    /// Row in its unit, from 0.
    pub row: u64,
    /// Window of its unit, from 0.
    pub window: u32,
    /// Stage that refused it.
    pub stage: String,
    /// Reason, which the ledger counts by.
    pub reason: String,
    /// Explanation for this sample.
    pub detail: String,
    /// Later window whose units read the row again, if any: its own rows tell the new outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_again_in: Option<u32>,
}

/// A row of [`columns::refused_sample`].
#[derive(Debug, Deserialize)]
pub(crate) struct RefusedRow {
    pub sample_id: SampleId,
    pub source: String,
    pub key: String,
    pub row: u64,
    pub stage: String,
    pub reason: String,
    pub detail: String,
}

/// Filter over refused samples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusedFilter {
    /// Reason, `ingest.missing_image` or `missing_image`; all if none.
    pub reason: Option<String>,
    /// Stage that refused the sample; all if none.
    pub stage: Option<String>,
    /// Source by its name in the configuration; all if none.
    pub source: Option<String>,
    /// Window, from 0; all if none.
    pub window: Option<u32>,
}

impl RefusedFilter {
    /// Checks whether the filter admits samples refused for `reason`, in the form `stage.reason`.
    fn has_reason(&self, reason: &str) -> bool {
        let (stage, name) = reason.split_once('.').unwrap_or((reason, ""));
        self.stage.as_deref().is_none_or(|wanted| wanted == stage)
            && self.reason.as_deref().is_none_or(|wanted| wanted == reason || wanted == name)
    }

    fn has_source(&self, source: &str) -> bool {
        self.source.as_deref().is_none_or(|wanted| wanted == source)
    }

    pub(crate) fn has_window(&self, window: u32) -> bool {
        self.window.is_none_or(|wanted| wanted == window)
    }

    /// Checks whether the filter admits some of the refused samples that `ledger` counts.
    fn touches(&self, ledger: &SampleLedger) -> bool {
        ledger.refused.iter().any(|(reason, count)| *count > 0 && self.has_reason(reason))
    }
}

/// Lists refused samples of `windows`, in their order, at most `limit`.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &Store, windows: &[WindowRecord], limit: usize) -> Result<Vec<RefusedSample>> {
    matching(store, windows, &RefusedFilter::default(), limit).await
}

/// As [`list`], for samples that `filter` admits.
///
/// # Errors
/// Those of the store.
pub async fn matching(store: &Store, windows: &[WindowRecord], filter: &RefusedFilter, limit: usize) -> Result<Vec<RefusedSample>> {
    let units = UnitStore::new(store.clone());
    let readings = Readings::new(windows);
    let mut found = Vec::new();
    for window in windows.iter().filter(|window| filter.has_window(window.window) && filter.touches(&window.samples)) {
        let keys = &window.keys.prepare;
        for (unit, &key) in window.units.iter().zip(keys) {
            let location = || layout::unit(SegmentName::Prepare, key);
            let listed = of_unit(&units, PreparedUnit { window: window.window, unit, key }, filter).await?;
            let listed = listed.ok_or_else(|| PipelineError::Damaged { location: location(), problem: "it is missing".into() })?;
            found.extend(listed.into_iter().map(|sample| {
                let last = readings.last(&sample.source, &sample.file, sample.file_row);
                let read_again_in = last.map(|place| windows[place.window].window).filter(|last| *last > window.window);
                RefusedSample { read_again_in, ..sample }
            }));
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// A prepared unit of a window.
pub(crate) struct PreparedUnit<'a> {
    pub(crate) window: u32,
    pub(crate) unit: &'a SourceUnit,
    pub(crate) key: Digest,
}

/// Lists refused samples of a prepared unit that `filter` admits; `None` if the unit does not exist.
pub(crate) async fn of_unit(
    units: &UnitStore,
    PreparedUnit { window, unit, key }: PreparedUnit<'_>,
    filter: &RefusedFilter,
) -> Result<Option<Vec<RefusedSample>>> {
    if !filter.has_source(&unit.source) {
        return Ok(Some(Vec::new()));
    }
    let Some(record) = units.find(SegmentName::Prepare, key).await? else { return Ok(None) };
    if !record.samples.as_ref().is_some_and(|samples| filter.touches(samples)) {
        return Ok(Some(Vec::new()));
    }
    let names = [columns::SAMPLE_ID, columns::SOURCE, columns::KEY, columns::ROW, "stage", "reason", "detail"];
    let mut found = Vec::new();
    for batch in units.read(&record, Table::RefusedSamples).await? {
        let meant = |row: &RefusedRow| filter.has_reason(&format!("{}.{}", row.stage, row.reason));
        found.extend(rows::read::<RefusedRow>(&batch, &names)?.into_iter().filter(meant).map(|row| {
            let RefusedRow { sample_id, source, key, row, stage, reason, detail } = row;
            let (file, file_row) = (unit.file.clone(), file_row(unit, row));
            RefusedSample { sample_id, source, file, file_row, key, row, window, stage, reason, detail, read_again_in: None }
        }));
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_named_with_or_without_its_stage() {
        let filter = |reason: &str| RefusedFilter { reason: Some(reason.into()), ..RefusedFilter::default() };
        for meant in ["ingest.missing_image", "missing_image"] {
            assert!(filter(meant).has_reason("ingest.missing_image"), "{meant}");
        }
        for other in ["missing", "image", "ingest", "filter.missing_image", ""] {
            assert!(!filter(other).has_reason("ingest.missing_image"), "{other}");
        }
        assert!(RefusedFilter::default().has_reason("anything.at_all"));
    }

    #[test]
    fn all_parts_of_a_filter_must_fit() {
        let filter = |reason: Option<&str>, stage: &str| RefusedFilter {
            reason: reason.map(str::to_owned),
            stage: Some(stage.into()),
            ..RefusedFilter::default()
        };
        assert!(filter(None, "ingest").has_reason("ingest.missing_image"));
        assert!(filter(Some("missing_image"), "ingest").has_reason("ingest.missing_image"));
        assert!(!filter(Some("missing_image"), "filter").has_reason("ingest.missing_image"));
        assert!(!filter(Some("no_image"), "ingest").has_reason("ingest.missing_image"));
    }
}
