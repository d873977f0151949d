//! What the sources hold now, and how that differs from what the version before was made of.
//!
//! Units are cut as the version before cut them, so that rows that were appended begin units of their own. What a scan found is kept in the
//! store, `scans/<key>.json`; damaged or missing entries cost another reading and nothing else.

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

/// Units that the sources hold now.
#[derive(Debug)]
pub struct Scan {
    /// All units, in order of sources, files and rows.
    pub units: Vec<PlannedUnit>,
    /// Bytes of their files.
    pub bytes: u64,
    /// Files of folders that are left alone, by source: numbers by extension.
    pub left: BTreeMap<String, BTreeMap<String, u64>>,
    /// Whether all samples were looked at: a limit was too high to matter, or there was none.
    is_complete: bool,
}

/// Rows of a file that a version holds and the sources do not, or not as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRows {
    /// Name of the source.
    pub source: String,
    /// Name of the file.
    pub file: String,
    /// Number of rows.
    pub rows: u64,
}

/// How the sources differ from what a version was made of. All of it stays in the dataset until it is withdrawn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Rows that are gone.
    pub removed: Vec<FileRows>,
    /// Rows of units that changed. Those among them that are as they were come in again as duplicates.
    pub changed: Vec<FileRows>,
}

impl Drift {
    /// Number of rows that are gone.
    #[must_use]
    pub fn removed_rows(&self) -> u64 {
        self.removed.iter().map(|file| file.rows).sum()
    }

    /// Number of rows of units that changed.
    #[must_use]
    pub fn changed_rows(&self) -> u64 {
        self.changed.iter().map(|file| file.rows).sum()
    }

    /// One line for people on each kind of difference from version `base`, with the first files.
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

/// What a unit is, whatever its file is called.
pub(crate) fn content_of(unit: &SourceUnit) -> (&str, Digest, u64, u64, &[u64]) {
    (&unit.source, unit.digest, unit.first_row, unit.rows, &unit.only)
}

/// Units of committed windows. Those that are quarantined stand beside them, and are yet to be done.
pub(crate) fn done_units<'a>(windows: impl IntoIterator<Item = &'a WindowRecord>) -> impl Iterator<Item = &'a SourceUnit> {
    windows.into_iter().flat_map(|window| &window.units)
}

impl Scan {
    /// Number of samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.units.iter().map(|planned| planned.unit.rows).sum()
    }

    /// One line for people on the files of each source that are left alone.
    #[must_use]
    pub fn left_lines(&self) -> Vec<String> {
        let line = |(source, left): (&String, &BTreeMap<String, u64>)| {
            let counts: Vec<String> = left.iter().map(|(what, count)| format!("{what} {count}")).collect();
            format!("files of source {source} that are no samples and are left alone: {}", counts.join(", "))
        };
        self.left.iter().map(line).collect()
    }

    /// That `sources` were looked through in `took`.
    #[must_use]
    pub(crate) fn done(&self, sources: usize, took: Duration) -> Event {
        let (units, samples, bytes) = (self.units.len() as u64, self.samples(), self.bytes);
        Event::ScanDone { sources: sources as u64, units, samples, bytes, seconds: took.as_secs_f64() }
    }

    /// Units that are none of `done`.
    pub(crate) fn fresh<'a>(&self, done: impl Iterator<Item = &'a SourceUnit>) -> Vec<PlannedUnit> {
        let known: HashSet<_> = done.map(content_of).collect();
        self.units.iter().filter(|planned| !known.contains(&content_of(&planned.unit))).cloned().collect()
    }

    /// How the sources differ from the units `done`; nothing if not all samples were looked at.
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
        // Units of some rows lie within others.
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

/// Scans all sources, at most `limit` samples. Units are cut as `base` cut them.
///
/// # Errors
/// As [`scan`], or [`PipelineError::Address`] for an address that cannot be opened.
pub async fn scan_sources(job: &Job, base: Option<&Published>, limit: Option<u64>) -> Result<Scan> {
    let before: Vec<SourceUnit> = base.into_iter().flat_map(Published::units).cloned().collect();
    scan_as(job, &before, limit).await
}

/// As [`scan_sources`], cut as the units `before` are.
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

/// The stage that reads a unit from its source.
///
/// # Errors
/// [`PipelineError::Mismatch`] if the configuration has no such source, [`PipelineError::Address`] if it cannot be opened.
pub(crate) fn ingest_of(config: &Config, planned: PlannedUnit) -> Result<Ingest> {
    let name = &planned.unit.source;
    let missing =
        || PipelineError::Mismatch { problem: format!("the configuration has no source {name:?}, of which a unit is to be read") };
    let source = config.source.iter().find(|source| source.name == *name).ok_or_else(missing)?;
    let location = source_location(source, &config.folder, &config.store)?;
    Ok(Ingest::try_new(planned, location, config.read_options(source))?)
}

/// A path alone does not tell one bucket from another.
fn address(source: &SourceConfig, location: &Location) -> String {
    if source.url.contains("://") { format!("{} {}", source.url, location.path) } else { location.path.to_string() }
}

/// What scans found, as the store keeps it. Whatever goes wrong with it only costs time.
struct StoredScans(Store);

impl StoredScans {
    async fn replace(&self, path: &str, entry: Vec<u8>) -> Result<()> {
        if self.0.create(path, entry.clone()).await? == Created::Different {
            // It could not be used, or it would not have been made again.
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

    /// Units as a scan finds them; where their rows stand does not matter here.
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
