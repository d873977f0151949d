//! Makes again what is damaged of a version, from what it was made of.
//!
//! Everything is made in a scratch store and compared before anything in the store is replaced: an object is healed only if its digest is
//! the recorded one. Units of which no digest is left are taken if what is made of them has the recorded digests.

mod manifest;
mod units;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cm3flow_schemas::Digest;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use futures::TryStreamExt;
use serde::Serialize;

use super::{Damage, Place, Verification, Verifier};
use crate::artefact;
use crate::catalog::{Catalog, lineage, shard_table};
use crate::config::Config;
use crate::error::Result;
use crate::events::progress::Progress;
use crate::plan::config_of_version;
use crate::source::scan::scan_sources;
use crate::store::scratch::Scratch;
use crate::store::{Store, table};

/// An object that could not be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// What is wrong with it.
    #[serde(flatten)]
    pub damage: Damage,
    /// Why it stays so.
    pub reason: String,
}

/// What came of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// What was damaged and is whole again.
    pub healed: Vec<Damage>,
    /// What is still damaged.
    pub left: Vec<Left>,
    /// The version after the repair.
    pub after: Verification,
}

/// Repairs a version of the dataset of `config`.
///
/// # Errors
/// What the store says. What cannot be made again is no error.
pub async fn repair(config: &Config, store: &Store, version: u32, progress: &Progress) -> Result<Repair> {
    let dataset = &config.dataset.name;
    let mut found = Verifier::new(store, dataset).examine(version).await?;
    if found.verification.is_clean() {
        return Ok(Repair { healed: Vec::new(), left: Vec::new(), after: found.verification });
    }
    let catalog = Catalog::new(store.clone(), dataset);
    let mut work = Work { config: config.clone(), store, catalog, version, progress, reasons: BTreeMap::new() };
    let mut damaged = found.verification.damaged.clone();
    if found.manifest.is_none() && work.restore_manifest().await? {
        found = Verifier::new(store, dataset).examine(version).await?;
        damaged.extend(found.verification.damaged.iter().cloned());
    }
    if let Some(manifest) = &found.manifest {
        work.config = config_of_version(config, manifest);
        let damaged = &found.verification.damaged;
        work.artefacts(manifest, damaged).await?;
        work.window_copies(manifest, &mut found.windows).await?;
        work.units(manifest, &mut found.windows, damaged).await?;
        work.tables(manifest, &found.windows).await?;
        work.digest(manifest, damaged).await?;
    }
    let after = Verifier::new(store, dataset).version(version).await?;
    let is_left = |damage: &Damage| after.damaged.iter().any(|left| left.path == damage.path);
    let mut healed: Vec<Damage> = damaged.into_iter().filter(|damage| !is_left(damage)).collect();
    healed.sort_by(|a, b| a.path.cmp(&b.path));
    healed.dedup_by(|a, b| a.path == b.path);
    let reason = |damage: &Damage| work.reasons.get(&damage.path).cloned().unwrap_or_else(|| "restore it from a copy".into());
    let left = after.damaged.iter().map(|damage| Left { reason: reason(damage), damage: damage.clone() }).collect();
    Ok(Repair { healed, left, after })
}

/// What the parts of a repair share.
struct Work<'a> {
    /// The configuration, as the version was made with as soon as its manifest is known.
    config: Config,
    store: &'a Store,
    catalog: Catalog,
    version: u32,
    progress: &'a Progress,
    /// Why an object stays as it is, by path.
    reasons: BTreeMap<String, String>,
}

impl Work<'_> {
    /// Puts `bytes` where something broken lies, or nothing.
    async fn replace(&self, path: &str, bytes: impl Into<Bytes>) -> Result<()> {
        self.store.delete(path).await?;
        self.store.create_content(path, bytes).await
    }

    fn leave(&mut self, path: &str, reason: impl Into<String>) {
        self.reasons.entry(path.to_owned()).or_insert_with(|| reason.into());
    }

    /// Fits damaged artefacts once more.
    async fn artefacts(&mut self, manifest: &VersionManifest, damaged: &[Damage]) -> Result<()> {
        for damage in damaged {
            let Place::Artefact(name) = &damage.place else { continue };
            let hidden = damage.path.clone();
            let scratch = Scratch::over(self.store, Arc::new(move |path: &str| path == hidden))?;
            self.progress.say(&format!("fitting the {name} once more"));
            let fitted = match scan_sources(&self.config, self.store, None).await {
                Ok(scan) => artefact::fit_again(&self.config, &scratch.store, &scan.units, name, self.progress).await,
                Err(error) => Err(error),
            };
            match (fitted, scratch.written.get(&damage.path).await?) {
                (Ok(digest), Some(bytes)) if manifest.fitted.get(name) == Some(&digest) => self.replace(&damage.path, bytes).await?,
                (Ok(_), _) => self.leave(
                    &damage.path,
                    "fitted on what the sources hold now, under the present configuration, it has another digest; restore it from a copy",
                ),
                (Err(error), _) => self.leave(&damage.path, error.to_string()),
            }
        }
        Ok(())
    }

    /// Records of windows that another version, or a run that was given up, holds too.
    async fn window_copies(&self, manifest: &VersionManifest, windows: &mut [Option<WindowRecord>]) -> Result<()> {
        for (index, record) in windows.iter_mut().enumerate().filter(|(_, record)| record.is_none()) {
            let mut others = self.store.entries(&format!("windows/{}", manifest.dataset));
            while let Some(other) = others.try_next().await? {
                let is_named_so =
                    |name: &str| name.strip_suffix(".json").and_then(|digest| digest.parse().ok()) == Some(manifest.windows[index]);
                if !other.location.filename().is_some_and(is_named_so) {
                    continue;
                }
                let Some(bytes) = self.store.get(other.location.as_ref()).await? else { continue };
                if Digest::of(&bytes) == manifest.windows[index] {
                    *record = serde_json::from_slice(&bytes).ok();
                    self.replace(&self.catalog.window_path(self.version, index as u32, manifest.windows[index]), bytes).await?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Tables follow from the windows, if all of these are whole.
    async fn tables(&mut self, manifest: &VersionManifest, windows: &[Option<WindowRecord>]) -> Result<()> {
        let Some(windows) = windows.iter().cloned().collect::<Option<Vec<WindowRecord>>>() else {
            for digest in [manifest.shard_table, manifest.lineage] {
                self.leave(&self.catalog.table_path(digest), "it follows from the records of all windows, and some are lost");
            }
            return Ok(());
        };
        let tables = [
            (manifest.shard_table, table::write(&shard_table(&windows)?, "the shard table")?),
            (manifest.lineage, table::write(&lineage(&windows)?, "the lineage")?),
        ];
        for (digest, bytes) in tables {
            let path = self.catalog.table_path(digest);
            if Digest::of(&bytes) != digest {
                self.leave(&path, "this cm3flow writes the same rows as other bytes");
            } else if self.store.get_checked(&path, digest).await.is_err() {
                self.replace(&path, bytes).await?;
            }
        }
        Ok(())
    }

    /// The recorded digest of the manifest; the manifest's sums have been compared with its windows.
    async fn digest(&mut self, manifest: &VersionManifest, damaged: &[Damage]) -> Result<()> {
        let path = self.catalog.digest_path(self.version);
        if !damaged.iter().any(|damage| damage.place == Place::Digest) {
            return Ok(());
        }
        if damaged.iter().any(|damage| damage.place == Place::Manifest) {
            self.leave(&path, "the manifest is not what its windows make, so its digest is not recorded");
            return Ok(());
        }
        self.store.delete(&path).await?;
        self.catalog.record_digest(manifest).await
    }
}
