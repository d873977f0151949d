//! The catalog of a dataset: committed windows, published versions, and tags that name versions.
//!
//! Window records are named by their own digests: an abandoned run, or one that lacked a unit, leaves nothing that blocks the next.
//! Every version has its own records and needs none of earlier versions.

pub mod blocklist;
pub mod checkpoints;
mod overlay;
mod published;
pub(crate) mod readings;
mod reference;
pub mod refused;
mod tags;
mod totals;
pub(crate) mod units;

use std::collections::{BTreeMap, BTreeSet};

use cm3flow_schemas::canonical::digest_of;
use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::pack::{BlockEntry, ShardEntry};
use cm3flow_schemas::sample::Split;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{WindowKeys, WindowRecord};
use cm3flow_schemas::{Digest, columns, layout, rows};
use serde::Serialize;
use serde_json::Value;

pub use published::Published;
pub use reference::{ParseVersionError, TagName, VersionRef};
pub use tags::Tag;
pub(crate) use totals::Totals;

use crate::error::{PipelineError, Result};
use crate::store::{Created, Store, record_bytes};

/// Hexadecimal digits of a digest.
const DIGEST_DIGITS: usize = 64;

/// Windows, versions and tags of one dataset.
#[derive(Debug, Clone)]
pub struct Catalog {
    store: Store,
    dataset: String,
}

impl Catalog {
    /// Makes the catalog of `dataset` in `store`.
    #[must_use]
    pub fn new(store: Store, dataset: &str) -> Self {
        Self { store, dataset: dataset.to_owned() }
    }

    /// Returns the name of the dataset.
    pub(crate) fn dataset(&self) -> &str {
        &self.dataset
    }

    /// Returns the store that holds the catalog.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Lists the numbers of all versions, ascending.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn versions(&self) -> Result<Vec<u32>> {
        let names = self.store.names(&layout::versions(&self.dataset)).await?;
        let mut versions: Vec<u32> = names.iter().filter_map(|name| layout::number_of(name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Lists the numbers of all versions that have a manifest or a recorded digest, ascending.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn recorded_versions(&self) -> Result<Vec<u32>> {
        let names = self.store.names(&layout::versions(&self.dataset)).await?;
        let number = |name: &String| name.strip_suffix(".json").or(name.strip_suffix(".digest"))?.parse().ok();
        Ok(names.iter().filter_map(number).collect::<BTreeSet<u32>>().into_iter().collect())
    }

    /// Reads the manifest of `version`.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`], [`PipelineError::Format`], or those of the store.
    pub async fn version(&self, version: u32) -> Result<VersionManifest> {
        let location = layout::manifest(&self.dataset, version);
        let missing = || PipelineError::NoVersion { dataset: self.dataset.clone(), version: version.to_string() };
        let manifest: Value = self.store.record(&location, "version manifest").await?.ok_or_else(missing)?;
        // The format is checked before the fields: a later format may have other fields.
        let found = manifest["format_version"].as_u64().and_then(|found| u32::try_from(found).ok()).unwrap_or(layout::FORMAT_VERSION);
        if found != layout::FORMAT_VERSION {
            return Err(PipelineError::Format { location, found, expected: layout::FORMAT_VERSION });
        }
        serde_json::from_value(manifest).map_err(|source| PipelineError::Record { location, expected: "version manifest", source })
    }

    /// Reads the manifest of the highest version; `None` without versions.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn latest_version(&self) -> Result<Option<VersionManifest>> {
        match self.versions().await?.last() {
            Some(version) => self.version(*version).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns the number of the version that `version` names, or of the highest version if it is `None`.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`] for an unknown tag, [`PipelineError::NothingPublished`], or those of the store.
    pub async fn number_of(&self, version: Option<&VersionRef>) -> Result<u32> {
        match version {
            Some(VersionRef::Number(number)) => Ok(*number),
            Some(VersionRef::Tag(tag)) => {
                let missing = || PipelineError::NoVersion { dataset: self.dataset.clone(), version: tag.to_string() };
                self.tagged(tag).await?.ok_or_else(missing)
            }
            Some(VersionRef::Latest) | None => {
                let missing = || PipelineError::NothingPublished { dataset: self.dataset.clone() };
                self.versions().await?.last().copied().ok_or_else(missing)
            }
        }
    }

    /// Reads the manifest of the version that `version` names, or of the highest version if it is `None`.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`], [`PipelineError::NothingPublished`], or those of the store.
    pub async fn version_or_latest(&self, version: Option<&VersionRef>) -> Result<VersionManifest> {
        self.version(self.number_of(version).await?).await
    }

    /// Reads the window records of a version, in order, and checks each against its digest.
    ///
    /// # Errors
    /// [`PipelineError::Damaged`], or those of the store.
    pub async fn windows_of(&self, manifest: &VersionManifest) -> Result<Vec<WindowRecord>> {
        let mut records = Vec::with_capacity(manifest.windows.len());
        for (window, digest) in manifest.windows.iter().enumerate() {
            let path = layout::window(&self.dataset, manifest.version, window as u32, *digest);
            let bytes = self.store.get_checked(&path, *digest).await?;
            let parsed = serde_json::from_slice(&bytes);
            records.push(parsed.map_err(|source| PipelineError::Record { location: path, expected: "window record", source })?);
        }
        Ok(records)
    }

    /// Commits a window of the coming version; from then on a follower may read it.
    ///
    /// # Errors
    /// [`PipelineError::Ledger`] if the counts do not add up, or those of the store.
    pub async fn commit_window(&self, version: u32, record: &WindowRecord) -> Result<()> {
        let scope = format!("window {}", record.window);
        record.samples.check(&scope)?;
        record.documents.check(&scope)?;
        let bytes = record_bytes(record);
        let path = layout::window(&self.dataset, version, record.window, Digest::of(&bytes));
        self.store.create_content(&path, bytes).await
    }

    pub(crate) async fn put_version(&self, manifest: VersionManifest) -> Result<VersionManifest> {
        match self.store.create_record(&layout::manifest(&self.dataset, manifest.version), &manifest).await? {
            Created::New | Created::Same => {
                self.record_digest(&manifest).await?;
                Ok(manifest)
            }
            Created::Different => Err(PipelineError::Overtaken { dataset: self.dataset.clone(), version: manifest.version }),
        }
    }

    /// Writes the digest of a published manifest beside it, unless it exists; it tells a whole manifest from a damaged one. The manifest
    /// is written first: of two concurrent runs, the one whose manifest came first counts.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn record_digest(&self, manifest: &VersionManifest) -> Result<()> {
        let line = digest_line(manifest.version, Digest::of(&record_bytes(manifest)));
        self.store.create(&layout::manifest_digest(&self.dataset, manifest.version), line).await.map(drop)
    }

    /// Reads the recorded digest of a manifest; `None` without such a record.
    ///
    /// # Errors
    /// [`PipelineError::Damaged`] if the record holds no digest, or those of the store.
    pub async fn recorded_digest(&self, version: u32) -> Result<Option<Digest>> {
        let path = layout::manifest_digest(&self.dataset, version);
        let Some(bytes) = self.store.get(&path).await? else { return Ok(None) };
        let digest = std::str::from_utf8(&bytes).ok().and_then(|line| line.get(..DIGEST_DIGITS)?.parse::<Digest>().ok());
        match digest.filter(|digest| digest_line(version, *digest).as_bytes() == &bytes[..]) {
            Some(digest) => Ok(Some(digest)),
            None => Err(PipelineError::Damaged { location: path, problem: "it is no digest of a manifest".into() }),
        }
    }
}

/// Returns the digest of the keys of all windows.
#[must_use]
pub(crate) fn digest_of_windows(windows: &[WindowRecord]) -> Digest {
    digest_of("plan", &windows.iter().map(|window| &window.keys).collect::<Vec<_>>())
}

/// Returns the line that `b3sum` prints for a manifest and `b3sum --check` reads.
fn digest_line(version: u32, digest: Digest) -> String {
    format!("{digest}  {version}.json\n")
}

/// Makes an empty record of `window`.
#[must_use]
pub(crate) fn window_record(window: u32, keys: WindowKeys) -> WindowRecord {
    WindowRecord {
        format_version: layout::FORMAT_VERSION,
        window,
        units: Vec::new(),
        keys,
        quarantined: Vec::new(),
        blocklist: None,
        shards: Vec::new(),
        samples: SampleLedger::default(),
        documents: DocumentLedger::default(),
        statistics: BTreeMap::new(),
        licenses: BTreeMap::new(),
    }
}

pub(crate) fn shard_table(windows: &[WindowRecord]) -> Result<arrow::array::RecordBatch> {
    #[derive(Serialize)]
    struct Row<'a> {
        window: u32,
        digest: Digest,
        split: Split,
        bytes: u64,
        packs: u64,
        blocks: &'a [BlockEntry],
        variant: u16,
    }
    let mut all = Vec::new();
    for record in windows {
        for ShardEntry { digest, split, bytes, packs, blocks, variant } in &record.shards {
            let (window, digest, split) = (record.window, *digest, *split);
            all.push(Row { window, digest, split, bytes: *bytes, packs: *packs, blocks, variant: *variant });
        }
    }
    let has_variants = all.iter().any(|row| row.variant > 0);
    Ok(rows::write(&columns::shard_table(has_variants), &all)?)
}

pub(crate) fn lineage(windows: &[WindowRecord]) -> Result<arrow::array::RecordBatch> {
    #[derive(Serialize)]
    struct Row<'a> {
        window: u32,
        unit: u32,
        source: &'a str,
        file: &'a str,
        digest: Digest,
        first_row: u64,
        rows: u64,
        only: &'a [u64],
        prepare: Option<Digest>,
        settle: Digest,
        compose: Option<Digest>,
    }
    let mut all = Vec::new();
    for record in windows {
        for (index, unit) in record.units.iter().enumerate() {
            all.push(Row {
                window: record.window,
                unit: index as u32,
                source: &unit.source,
                file: &unit.file,
                digest: unit.digest,
                first_row: unit.first_row,
                rows: unit.rows,
                only: &unit.only,
                prepare: record.keys.prepare.get(index).copied(),
                settle: record.keys.settle(),
                compose: record.keys.compose.get(index).copied(),
            });
        }
    }
    let has_chosen = all.iter().any(|row| !row.only.is_empty());
    Ok(rows::write(&columns::lineage(has_chosen), &all)?)
}

/// Makes a record of `window` without units, for tests.
#[cfg(test)]
pub(crate) fn empty_window_record(window: u32) -> WindowRecord {
    let none = Digest::of(b"");
    window_record(window, WindowKeys { compose: Vec::new(), pack: [none; Split::ALL.len()], prepare: Vec::new(), settle: [none] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manifest_of_a_later_format_is_refused_by_name() {
        let store = Store::open("memory://", std::path::Path::new("")).expect("memory");
        store.create("versions/d/3.json", r#"{"format_version": 2, "something": "new"}"#).await.expect("memory");
        let error = Catalog::new(store, "d").latest_version().await.expect_err("a later format");
        assert!(matches!(&error, PipelineError::Format { location, found: 2, expected: 1 } if location == "versions/d/3.json"), "{error}");
    }
}
