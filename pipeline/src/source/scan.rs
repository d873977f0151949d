//! Scans: the present content of the sources, and its difference from the content of the version before.
//!
//! Units are cut as in the version before, so that appended rows begin separate units. The store keeps the results of scans,
//! `scans/<key>.json`; damaged or missing entries only cost another reading.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_schemas::{Digest, layout};
use cm3flow_stages::ingest::{Ingest, Location, PlannedUnit, ScanMemory, ScanOptions, SourceConfig, scan};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;

use crate::catalog::Published;
use crate::config::{Config, Job};
use crate::error::{PipelineError, Result};
use crate::events::Event;
use crate::store::{Created, Store, source_location};

/// Present content of the sources.
#[derive(Debug)]
pub struct Scan {
    /// All units, in order of sources, files and rows.
    pub units: Vec<PlannedUnit>,
    /// Bytes of the sources' files.
    pub bytes: u64,
    /// Files of folders that hold no samples, by source: numbers by extension.
    pub left: BTreeMap<String, BTreeMap<String, u64>>,
    /// `true` if no limit ended the scan.
    is_complete: bool,
}

/// Rows of a file that a version holds and the sources no longer hold unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRows {
    /// Name of the source.
    pub source: String,
    /// Name of the file.
    pub file: String,
    /// Number of rows.
    pub rows: u64,
}

/// Difference between the sources and the content of a version. All these rows stay in the dataset until they are withdrawn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Rows that the sources no longer hold.
    pub removed: Vec<FileRows>,
    /// Rows of changed units. Unchanged rows among them come in again as duplicates.
    pub changed: Vec<FileRows>,
}

impl Drift {
    /// Returns the number of rows that the sources no longer hold.
    #[must_use]
    pub fn removed_rows(&self) -> u64 {
        self.removed.iter().map(|file| file.rows).sum()
    }

    /// Returns the number of rows of changed units.
    #[must_use]
    pub fn changed_rows(&self) -> u64 {
        self.changed.iter().map(|file| file.rows).sum()
    }

    /// Describes the differences from version `base` for people, one line for each kind, with the first files.
    #[must_use]
    pub fn lines(&self, base: u32) -> Vec<String> {
        let files = |files: &[FileRows]| {
            let named: Vec<String> = files.iter().take(3).map(|file| format!("{}/{}", file.source, file.file)).collect();
            let more = files.len().checked_sub(3).filter(|more| *more > 0).map(|more| format!(" and {more} more")).unwrap_or_default();
            format!("{}{more}", named.join(", "))
        };
        let mut lines = Vec::new();
        if !self.removed.is_empty() {
            let (rows, files) = (self.removed_rows(), files(&self.removed));
            lines.push(format!("the sources no longer hold {rows} rows of version {base} ({files}); they stay in the dataset"));
        }
        if !self.changed.is_empty() {
            let (rows, files) = (self.changed_rows(), files(&self.changed));
            lines.push(format!(
                "units with {rows} rows of version {base} have changed in the sources ({files}); their rows stay in the dataset"
            ));
        }
        lines
    }
}

/// Returns the identity of a unit regardless of its file's name.
pub(crate) fn content_of(unit: &SourceUnit) -> (&str, Digest, u64, u64, &[u64]) {
    (&unit.source, unit.digest, unit.first_row, unit.rows, &unit.only)
}

/// Returns the units of committed windows. Quarantined units are not among them: they are still to be done.
pub(crate) fn done_units<'a>(windows: impl IntoIterator<Item = &'a WindowRecord>) -> impl Iterator<Item = &'a SourceUnit> {
    windows.into_iter().flat_map(|window| &window.units)
}

impl Scan {
    /// Returns the number of samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.units.iter().map(|planned| planned.unit.rows).sum()
    }

    /// Describes for people the files of each source that hold no samples, one line for each source.
    #[must_use]
    pub fn left_lines(&self) -> Vec<String> {
        let line = |(source, left): (&String, &BTreeMap<String, u64>)| {
            let counts: Vec<String> = left.iter().map(|(what, count)| format!("{what} {count}")).collect();
            format!("files of source {source} that are no samples and are left alone: {}", counts.join(", "))
        };
        self.left.iter().map(line).collect()
    }

    /// Makes the event for the end of this scan of `sources`, after `took`.
    #[must_use]
    pub(crate) fn done(&self, sources: usize, took: Duration) -> Event {
        let (units, samples, bytes) = (self.units.len() as u64, self.samples(), self.bytes);
        Event::ScanDone { sources: sources as u64, units, samples, bytes, seconds: took.as_secs_f64() }
    }

    /// Returns the units that are not among `done`.
    pub(crate) fn fresh<'a>(&self, done: impl Iterator<Item = &'a SourceUnit>) -> Vec<PlannedUnit> {
        let known: HashSet<_> = done.map(content_of).collect();
        self.units.iter().filter(|planned| !known.contains(&content_of(&planned.unit))).cloned().collect()
    }

    /// Compares the sources with the units `done`; returns no difference if a limit ended the scan.
    pub(crate) fn drift<'a>(&self, done: impl Iterator<Item = &'a SourceUnit>) -> Drift {
        if !self.is_complete {
            return Drift::default();
        }
        let present: HashSet<_> = self.units.iter().map(|planned| content_of(&planned.unit)).collect();
        let mut rows_now: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for PlannedUnit { unit, .. } in &self.units {
            *rows_now.entry((&unit.source, &unit.file)).or_default() += unit.rows;
        }
        let (mut removed, mut changed) = (BTreeMap::new(), BTreeMap::new());
        // Units of single rows lie within other units.
        for unit in done.filter(|unit| unit.only.is_empty() && !present.contains(&content_of(unit))) {
            let file = (unit.source.as_str(), unit.file.as_str());
            let still = rows_now.get(&file).map_or(0, |now| now.saturating_sub(unit.first_row).min(unit.rows));
            *changed.entry(file).or_default() += still;
            *removed.entry(file).or_default() += unit.rows - still;
        }
        Drift { removed: listed(removed), changed: listed(changed) }
    }
}

fn listed(rows: BTreeMap<(&str, &str), u64>) -> Vec<FileRows> {
    let some = rows.into_iter().filter(|(_, rows)| *rows > 0);
    some.map(|((source, file), rows)| FileRows { source: source.to_owned(), file: file.to_owned(), rows }).collect()
}

/// Scans all sources, at most `limit` samples. Cuts units as `base` did.
///
/// # Errors
/// As [`scan`], or [`crate::PipelineError::Address`] for an address that cannot be opened.
pub async fn scan_sources(job: &Job, base: Option<&Published>, limit: Option<u64>) -> Result<Scan> {
    let before: Vec<SourceUnit> = base.into_iter().flat_map(Published::units).cloned().collect();
    scan_as(job, &before, limit).await
}

/// As [`scan_sources`], with units cut as in `before`.
pub(crate) async fn scan_as(job: &Job, before: &[SourceUnit], limit: Option<u64>) -> Result<Scan> {
    let config = &job.config;
    let memory = StoredScans(job.store.clone());
    let mut found = Scan { units: Vec::new(), bytes: 0, left: BTreeMap::new(), is_complete: limit.is_none() };
    for source in &config.source {
        let left = limit.map(|limit| limit.saturating_sub(found.samples()));
        if left == Some(0) {
            break;
        }
        let location = source_location(source, &config.folder, &config.store)?;
        let address = address(source, &location);
        let reading = config.read_options(source);
        let options = ScanOptions { limit: left, before, address: &address, memory: &memory, reading: &reading };
        let scanned = scan(source, &location, options).await?;
        if !scanned.left.is_empty() {
            found.left.insert(source.name.clone(), scanned.left);
        }
        found.units.extend(scanned.units);
        found.bytes += scanned.bytes;
    }
    Ok(found)
}

/// Makes the stage that reads a unit from its source.
///
/// # Errors
/// [`crate::PipelineError::Mismatch`] if the configuration has no such source, [`crate::PipelineError::Address`] if it cannot be opened.
pub(crate) fn ingest_of(config: &Config, planned: PlannedUnit) -> Result<Ingest> {
    let name = &planned.unit.source;
    let missing =
        || PipelineError::Mismatch { problem: format!("the configuration has no source {name:?}, of which a unit is to be read") };
    let source = config.source.iter().find(|source| source.name == *name).ok_or_else(missing)?;
    let location = source_location(source, &config.folder, &config.store)?;
    Ok(Ingest::try_new(planned, location, config.read_options(source))?)
}

/// Adds the URL to the path: a path alone does not tell one bucket from another.
fn address(source: &SourceConfig, location: &Location) -> String {
    if source.url.contains("://") { format!("{} {}", source.url, location.path) } else { location.path.to_string() }
}

/// Results of scans in the store. Failures only cost time.
struct StoredScans(Store);

impl StoredScans {
    async fn replace(&self, path: &str, entry: Vec<u8>) -> Result<()> {
        if self.0.create(path, entry.clone()).await? == Created::Different {
            // The entry was unusable, or the scan would not have run again.
            self.0.delete(path).await?;
            self.0.create(path, entry).await?;
        }
        Ok(())
    }
}

impl ScanMemory for StoredScans {
    fn recall(&self, key: Digest) -> BoxFuture<'_, Option<Vec<u8>>> {
        async move {
            let found = self.0.get(&layout::scan(key)).await;
            found.inspect_err(|error| tracing::debug!(%key, %error, "what a scan found could not be read")).ok()?.map(Vec::from)
        }
        .boxed()
    }

    fn remember(&self, key: Digest, entry: Vec<u8>) -> BoxFuture<'_, ()> {
        async move {
            let kept = self.replace(&layout::scan(key), entry).await;
            let _ = kept.inspect_err(|error| tracing::debug!(%key, %error, "what a scan found could not be kept"));
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(file: &str, digest: &str, first_row: u64, rows: u64) -> SourceUnit {
        SourceUnit { source: "s".into(), file: file.into(), digest: Digest::of(digest.as_bytes()), first_row, rows, only: vec![] }
    }

    fn rows(file: &str, rows: u64) -> FileRows {
        FileRows { source: "s".into(), file: file.into(), rows }
    }

    /// Makes units as a scan finds them; the place of their rows does not matter here.
    fn scanned(units: &[SourceUnit]) -> Scan {
        let planned = |unit: &SourceUnit| {
            let place = serde_json::json!({"first_row": unit.first_row, "rows": unit.rows, "layout": {"files": []}});
            serde_json::from_value(serde_json::json!({"unit": unit, "place": place})).expect("a planned unit")
        };
        Scan { units: units.iter().map(planned).collect(), bytes: 0, left: BTreeMap::new(), is_complete: true }
    }

    #[test]
    fn removed_and_changed_rows_are_told_apart_by_file() {
        let done =
            [unit("gone", "1", 0, 5), unit("cut", "2", 0, 5), unit("cut", "3", 5, 5), unit("new", "4", 0, 5), unit("moved", "5", 0, 5)];
        let now = scanned(&[unit("cut", "2", 0, 5), unit("cut", "other", 5, 2), unit("new", "other", 0, 5), unit("elsewhere", "5", 0, 5)]);
        let drift = now.drift(done.iter());
        assert_eq!(
            (drift.removed.clone(), drift.changed.clone()),
            (vec![rows("cut", 3), rows("gone", 5)], vec![rows("cut", 2), rows("new", 5)])
        );
        assert_eq!((drift.removed_rows(), drift.changed_rows()), (8, 7));
        assert_eq!(drift.lines(3).len(), 2);
        assert!(drift.lines(3)[0].contains("8 rows of version 3 (s/cut, s/gone)"), "{:?}", drift.lines(3));
        assert_eq!(now.drift(done[1..2].iter()), Drift::default());
        assert!(Scan { is_complete: false, ..now }.drift(done.iter()).removed.is_empty(), "a limit looked at some of them alone");
    }

    #[test]
    fn rows_of_a_quarantined_unit_are_yet_to_be_done() {
        let mut window = crate::catalog::empty_window_record(0);
        let units = [unit("a", "1", 0, 5), unit("a", "1", 5, 5)];
        window.units = vec![units[1].clone()];
        window.quarantined = vec![cm3flow_schemas::window::QuarantinedUnit { unit: units[0].clone(), problem: "it crashed".into() }];
        let now = scanned(&units);
        let fresh: Vec<SourceUnit> = now.fresh(done_units([&window])).into_iter().map(|planned| planned.unit).collect();
        assert_eq!(fresh, units[..1]);
        assert_eq!(now.drift(done_units([&window])), Drift::default());
    }
}
