//! The catalog of a dataset: committed windows and published versions.

use std::collections::BTreeMap;

use cm3flow_schemas::ledger::{DocumentLedger, SampleLedger};
use cm3flow_schemas::pack::{PackStatistics, ShardEntry};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, columns, rows};
use serde::Serialize;
use serde_json::Value;

use crate::artefact::Artefacts;
use crate::config::Config;
use crate::error::{PipelineError, Result};
use crate::plan::{Plan, output_config};
use crate::store::{Created, Store, record_bytes};
use crate::table;

/// Version of the record formats.
const FORMAT_VERSION: u32 = 1;

/// Windows and versions of one dataset.
#[derive(Debug, Clone)]
pub struct Catalog {
    store: Store,
    dataset: String,
}

impl Catalog {
    /// The catalog of `dataset` in `store`.
    #[must_use]
    pub fn new(store: Store, dataset: &str) -> Self {
        Self { store, dataset: dataset.to_owned() }
    }

    /// The store that it lies in.
    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Numbers of all versions, ascending.
    ///
    /// # Errors
    /// What the store says.
    pub async fn versions(&self) -> Result<Vec<u32>> {
        let names = self.store.names(&format!("versions/{}", self.dataset)).await?;
        let mut versions: Vec<u32> = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Manifest of `version`.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`], [`PipelineError::Format`], or what the store says.
    pub async fn version(&self, version: u32) -> Result<VersionManifest> {
        let location = self.version_path(version);
        let missing = || PipelineError::NoVersion { dataset: self.dataset.clone(), version: version.to_string() };
        let manifest: Value = self.store.record(&location, "version manifest").await?.ok_or_else(missing)?;
        // Looked at first: a later format may have other fields.
        let found = manifest["format_version"].as_u64().and_then(|found| u32::try_from(found).ok()).unwrap_or(FORMAT_VERSION);
        if found != FORMAT_VERSION {
            return Err(PipelineError::Format { location, found, expected: FORMAT_VERSION });
        }
        serde_json::from_value(manifest).map_err(|source| PipelineError::Record { location, expected: "version manifest", source })
    }

    /// Manifest of the highest version; `None` without versions.
    ///
    /// # Errors
    /// What the store says.
    pub async fn latest_version(&self) -> Result<Option<VersionManifest>> {
        match self.versions().await?.last() {
            Some(version) => self.version(*version).await.map(Some),
            None => Ok(None),
        }
    }

    /// Manifest of `version`, or of the highest one.
    ///
    /// # Errors
    /// [`PipelineError::NoVersion`], [`PipelineError::NothingPublished`], or what the store says.
    pub async fn version_or_latest(&self, version: Option<u32>) -> Result<VersionManifest> {
        let missing = || PipelineError::NothingPublished { dataset: self.dataset.clone() };
        match version {
            Some(version) => self.version(version).await,
            None => self.latest_version().await?.ok_or_else(missing),
        }
    }

    /// Window records of a version, in order, each checked against its digest.
    ///
    /// # Errors
    /// [`PipelineError::Damaged`], or what the store says.
    pub async fn windows_of(&self, manifest: &VersionManifest) -> Result<Vec<WindowRecord>> {
        let mut records = Vec::with_capacity(manifest.windows.len());
        for (window, digest) in manifest.windows.iter().enumerate() {
            let path = self.window_path(manifest.version, manifest.plan, window as u32);
            let bytes = self.store.get_checked(&path, *digest).await?;
            let parsed = serde_json::from_slice(&bytes);
            records.push(parsed.map_err(|source| PipelineError::Record { location: path, expected: "window record", source })?);
        }
        Ok(records)
    }

    /// Commits a window of `plan`; from then on a follower may read it. Returns what stands in the catalog: when a record is there
    /// already, that one stays.
    ///
    /// # Errors
    /// [`PipelineError::Ledger`] if the numbers do not add up, or what the store says.
    pub async fn commit_window(&self, plan: &Plan, record: WindowRecord) -> Result<WindowRecord> {
        let scope = format!("window {}", record.window);
        record.samples.check(&scope)?;
        record.documents.check(&scope)?;
        let path = self.window_path(plan.version, plan.digest, record.window);
        if self.store.create_record(&path, &record).await? == Created::Different {
            tracing::warn!(path, "another run committed this window with other contents; its record stays");
            return Ok(self.store.record(&path, "window record").await?.unwrap_or(record));
        }
        Ok(record)
    }

    /// Publishes the version that `windows` make.
    ///
    /// # Errors
    /// [`PipelineError::Ledger`] if the numbers do not add up, [`PipelineError::Overtaken`] if another run published this version,
    /// or what the store says.
    pub async fn publish(&self, config: &Config, artefacts: &Artefacts, plan: &Plan, windows: &[WindowRecord]) -> Result<VersionManifest> {
        let mut samples = SampleLedger::default();
        let mut documents = DocumentLedger::default();
        let mut statistics: BTreeMap<String, PackStatistics> = BTreeMap::new();
        let mut licenses: BTreeMap<String, u64> = BTreeMap::new();
        for window in windows {
            samples.add(&window.samples);
            documents.add(&window.documents);
            window.statistics.iter().for_each(|(split, counts)| statistics.entry(split.clone()).or_default().add(counts));
            window.licenses.iter().for_each(|(license, count)| *licenses.entry(license.clone()).or_default() += count);
        }
        let scope = format!("version {}", plan.version);
        samples.check(&scope)?;
        documents.check(&scope)?;
        let manifest = VersionManifest {
            format_version: FORMAT_VERSION,
            dataset: self.dataset.clone(),
            version: plan.version,
            base: plan.base,
            plan: plan.digest,
            windows: windows.iter().map(|window| Digest::of(&record_bytes(window))).collect(),
            shard_table: self.put_table(table::write(&shard_table(windows)?, "the shard table")?).await?,
            lineage: self.put_table(table::write(&lineage(windows)?, "the lineage")?).await?,
            blocklist: plan.blocklist,
            seq_len: config.pack.seq_len,
            vocabulary: artefacts.vocabulary.clone(),
            preparation: Some(config.tokenize.image.preparation()),
            config: output_config(config),
            seed: config.dataset.seed,
            numerics: artefacts.image_spec.numerics.clone(),
            code_changes: artefacts.code_changes.clone(),
            artefacts: artefacts.digests.clone(),
            samples,
            documents,
            statistics,
            licenses,
        };
        match self.store.create_record(&self.version_path(plan.version), &manifest).await? {
            Created::New | Created::Same => Ok(manifest),
            Created::Different => Err(PipelineError::Overtaken { dataset: self.dataset.clone(), version: plan.version }),
        }
    }

    async fn put_table(&self, bytes: Vec<u8>) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        self.store.create_content(&format!("versions/{}/tables/{digest}.parquet", self.dataset), bytes).await?;
        Ok(digest)
    }

    fn version_path(&self, version: u32) -> String {
        format!("versions/{}/{version}.json", self.dataset)
    }

    /// Records lie under the plan too: a run that was given up and whose configuration was changed leaves nothing in the way.
    fn window_path(&self, version: u32, plan: Digest, window: u32) -> String {
        format!("windows/{}/{version}/{}/{window}.json", self.dataset, plan.short())
    }
}

/// An empty record of `window`, to be filled in.
#[must_use]
pub(crate) fn window_record(window: u32) -> WindowRecord {
    WindowRecord {
        format_version: FORMAT_VERSION,
        window,
        units: Vec::new(),
        keys: BTreeMap::new(),
        quarantined: Vec::new(),
        blocklist: None,
        shards: Vec::new(),
        samples: SampleLedger::default(),
        documents: DocumentLedger::default(),
        statistics: BTreeMap::new(),
        licenses: BTreeMap::new(),
    }
}

fn shard_table(windows: &[WindowRecord]) -> Result<arrow::array::RecordBatch> {
    #[derive(Serialize)]
    struct Row<'a> {
        window: u32,
        #[serde(flatten)]
        shard: &'a ShardEntry,
    }
    let row = |window: &'_ WindowRecord| window.window;
    let all: Vec<Row<'_>> =
        windows.iter().flat_map(|window| window.shards.iter().map(move |shard| Row { window: row(window), shard })).collect();
    Ok(rows::write(&columns::shard_table(), &all)?)
}

fn lineage(windows: &[WindowRecord]) -> Result<arrow::array::RecordBatch> {
    #[derive(Serialize)]
    struct Row<'a> {
        window: u32,
        unit: u32,
        source: &'a str,
        file: &'a str,
        digest: Digest,
        first_row: u64,
        rows: u64,
        prepare: Option<&'a Digest>,
        settle: Option<&'a Digest>,
        compose: Option<&'a Digest>,
    }
    let mut all = Vec::new();
    for record in windows {
        for (index, unit) in record.units.iter().enumerate() {
            let key = |segment: &str, index: usize| record.keys.get(segment).and_then(|keys| keys.get(index));
            all.push(Row {
                window: record.window,
                unit: index as u32,
                source: &unit.source,
                file: &unit.file,
                digest: unit.digest,
                first_row: unit.first_row,
                rows: unit.rows,
                prepare: key("prepare", index),
                settle: key("settle", 0),
                compose: key("compose", index),
            });
        }
    }
    Ok(rows::write(&columns::lineage(), &all)?)
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
