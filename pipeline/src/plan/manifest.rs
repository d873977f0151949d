//! Manifests of versions: made from a configuration and its windows, and turned back into the configuration of a version.

use std::collections::BTreeMap;

use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};
use cm3flow_stages::ingest::{RowSettings, SourceConfig};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Plan;
use crate::artefact::Artefacts;
use crate::catalog::{Catalog, Totals, digest_of_windows, lineage, shard_table};
use crate::config::Config;
use crate::error::Result;
use crate::store::{record_bytes, table};

/// Bytes of a table with their digest.
type Table = (Digest, Vec<u8>);

impl Catalog {
    /// Publishes the version that consists of `windows`.
    ///
    /// # Errors
    /// [`crate::PipelineError::Ledger`] if the counts do not add up, [`crate::PipelineError::Overtaken`] if another run published this
    /// version, or those of the store.
    pub async fn publish(&self, config: &Config, artefacts: &Artefacts, plan: &Plan, windows: &[WindowRecord]) -> Result<VersionManifest> {
        let (manifest, tables) = self.manifest_of(config, artefacts, plan, windows)?;
        for (digest, bytes) in tables {
            self.store().create_content(&layout::table(self.dataset(), digest), bytes).await?;
        }
        self.put_version(manifest).await
    }

    /// Makes the manifest of the version that consists of `windows`, and its shard table and lineage with their digests.
    ///
    /// # Errors
    /// [`crate::PipelineError::Ledger`] if the counts do not add up.
    pub(crate) fn manifest_of(
        &self,
        config: &Config,
        artefacts: &Artefacts,
        plan: &Plan,
        windows: &[WindowRecord],
    ) -> Result<(VersionManifest, [Table; 2])> {
        let Totals { samples, documents, statistics, licenses } = Totals::of(windows, plan.version)?;
        let tables = [table::write(&shard_table(windows)?, "the shard table")?, table::write(&lineage(windows)?, "the lineage")?];
        let [shard_table, lineage] = tables.map(|bytes| (Digest::of(&bytes), bytes));
        let manifest = VersionManifest {
            format_version: layout::FORMAT_VERSION,
            dataset: self.dataset().to_owned(),
            version: plan.version,
            base: plan.base,
            plan: digest_of_windows(windows),
            windows: windows.iter().map(|window| Digest::of(&record_bytes(window))).collect(),
            shard_table: shard_table.0,
            lineage: lineage.0,
            blocklist: plan.blocklist,
            seq_len: config.pack.seq_len,
            vocabulary: artefacts.vocabulary.clone(),
            preparation: Some(config.tokenize.image.preparation()),
            config: output_config(config),
            seed: config.dataset.seed,
            numerics: artefacts.numerics.clone(),
            code_changes: artefacts.code_changes.clone(),
            artefacts: artefacts.digests.clone(),
            fitted: artefacts.fitted.clone(),
            samples,
            documents,
            statistics,
            licenses,
        };
        Ok((manifest, [shard_table, lineage]))
    }
}

/// Returns `config` with the settings that made the version of `manifest`. Keeps sections that this release cannot read.
#[must_use]
pub(crate) fn config_of_version(config: &Config, manifest: &VersionManifest) -> Config {
    fn section<T: DeserializeOwned>(manifest: &VersionManifest, name: &str, into: &mut T) {
        if let Ok(recorded) = serde_json::from_value(manifest.config[name].clone()) {
            *into = recorded;
        }
    }
    let mut config = config.clone();
    config.dataset.seed = manifest.seed;
    let mut sources: BTreeMap<String, RowSettings> = BTreeMap::new();
    section(manifest, "source", &mut sources);
    let recorded = |source: SourceConfig| {
        let rows = sources.get(&source.name).copied().unwrap_or_default();
        source.with_row_settings(rows)
    };
    config.source = config.source.into_iter().map(recorded).collect();
    section(manifest, "window", &mut config.window);
    section(manifest, "filter", &mut config.filter);
    section(manifest, "derive", &mut config.derive);
    config.annotate = config.annotate.with_settings(&manifest.config["annotate"]);
    section(manifest, "embed", &mut config.embed);
    section(manifest, "split", &mut config.split);
    section(manifest, "dedup", &mut config.dedup);
    section(manifest, "retrieve", &mut config.retrieve);
    section(manifest, "instruct", &mut config.instruct);
    section(manifest, "mask", &mut config.mask);
    section(manifest, "pack", &mut config.pack);
    section(manifest, "shard", &mut config.shard);
    config
}

/// Returns the settings that change outputs, as the manifest holds them.
#[must_use]
pub fn output_config(config: &Config) -> Value {
    let mut output = json!({
        "window": config.window,
        "filter": config.filter,
        "derive": config.derive,
        "embed": config.embed,
        "split": config.split,
        "dedup": config.dedup,
        "retrieve": config.retrieve,
        "instruct": config.instruct,
        "mask": config.mask,
        "pack": config.pack,
        "shard": config.shard,
    });
    if let Some(annotate) = config.annotate.canonical(config.tokenize.image.preparation().side_px) {
        output["annotate"] = annotate;
    }
    let sources = config.source.iter().map(|source| (source.name.as_str(), source.row_settings()));
    let sources: BTreeMap<&str, RowSettings> = sources.filter(|(_, rows)| !rows.is_default()).collect();
    if !sources.is_empty() {
        output["source"] = json!(sources);
    }
    output
}
