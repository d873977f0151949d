//! Repair: makes damaged objects of a version again from their inputs.
//!
//! All work happens in a scratch store, and results are compared before anything in the store is replaced. An object is healed only if
//! its digest is the recorded one. Units with no digest left are taken if the objects made from them have the recorded digests.

mod manifest;
mod units;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};
use futures::TryStreamExt;
use serde::Serialize;

use super::{Damage, Place, Verification, Verifier};
use crate::artefact;
use crate::catalog::{Catalog, Published, lineage, shard_table};
use crate::config::Job;
use crate::error::Result;
use crate::plan::config_of_version;
use crate::source::scan::scan_sources;
use crate::store::scratch::Scratch;
use crate::store::table;

/// A damaged object that could not be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The object and its damage.
    #[serde(flatten)]
    pub damage: Damage,
    /// Reason why it stays damaged.
    pub reason: String,
}

/// Result of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// Damaged objects that are whole again.
    pub healed: Vec<Damage>,
    /// Objects that are still damaged.
    pub left: Vec<Left>,
    /// Verification after the repair.
    pub after: Verification,
}

/// Repairs a version of the dataset of `job`.
///
/// # Errors
/// Those of the store. An object that cannot be made again is no error.
pub async fn repair(job: &Job, version: u32) -> Result<Repair> {
    let (store, dataset) = (&job.store, job.dataset());
    let mut found = Verifier::new(store, dataset).examine(version).await?;
    if found.verification.is_clean() {
        return Ok(Repair { healed: Vec::new(), left: Vec::new(), after: found.verification });
    }
    let mut work = Work { job: job.clone(), catalog: job.catalog(), version, reasons: BTreeMap::new() };
    let mut damaged = found.verification.damaged.clone();
    if found.manifest.is_none() && work.restore_manifest().await? {
        found = Verifier::new(store, dataset).examine(version).await?;
        damaged.extend(found.verification.damaged.iter().cloned());
    }
    if let Some(manifest) = &found.manifest {
        work.job.config = Arc::new(config_of_version(&job.config, manifest));
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

/// State that the parts of a repair share.
struct Work {
    /// Job with the user's configuration; with the version's own once the manifest is known.
    job: Job,
    catalog: Catalog,
    version: u32,
    /// Reasons why objects stay damaged, by path.
    reasons: BTreeMap<String, String>,
}

impl Work {
    /// Replaces a broken or missing object by `bytes`.
    async fn replace(&self, path: &str, bytes: impl Into<Bytes>) -> Result<()> {
        self.job.store.delete(path).await?;
        self.job.store.create_content(path, bytes).await
    }

    fn leave(&mut self, path: &str, reason: impl Into<String>) {
        self.reasons.entry(path.to_owned()).or_insert_with(|| reason.into());
    }

    /// Fits damaged artefacts again.
    async fn artefacts(&mut self, manifest: &VersionManifest, damaged: &[Damage]) -> Result<()> {
        for damage in damaged {
            let Place::Artefact(name) = &damage.place else { continue };
            let hidden = damage.path.clone();
            let scratch = Scratch::over(&self.job.store, Arc::new(move |path: &str| path == hidden))?;
            self.job.progress.say(&format!("fitting the {name} once more"));
            let fitted = self.fit_again(name, &scratch).await;
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

    async fn fit_again(&self, name: &str, scratch: &Scratch) -> Result<Digest> {
        let latest = Published::latest(&self.catalog).await?;
        let scan = scan_sources(&self.job, latest.as_ref(), None).await?;
        artefact::fit_again(&self.job.on(scratch.store.clone()), &scan.units, name).await
    }

    /// Restores lost window records from copies that another version, or an abandoned run, holds.
    async fn window_copies(&self, manifest: &VersionManifest, windows: &mut [Option<WindowRecord>]) -> Result<()> {
        for (index, record) in windows.iter_mut().enumerate().filter(|(_, record)| record.is_none()) {
            let mut others = self.job.store.entries(&format!("{}/{}", layout::WINDOWS, manifest.dataset));
            while let Some(other) = others.try_next().await? {
                let is_named_so = |name: &str| layout::number_of(name) == Some(manifest.windows[index]);
                if !other.location.filename().is_some_and(is_named_so) {
                    continue;
                }
                let Some(bytes) = self.job.store.get(other.location.as_ref()).await? else { continue };
                if Digest::of(&bytes) == manifest.windows[index] {
                    *record = serde_json::from_slice(&bytes).ok();
                    self.replace(&layout::window(self.catalog.dataset(), self.version, index as u32, manifest.windows[index]), bytes)
                        .await?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Restores the tables of the manifest from the window records, if all of these are whole.
    async fn tables(&mut self, manifest: &VersionManifest, windows: &[Option<WindowRecord>]) -> Result<()> {
        let Some(windows) = windows.iter().cloned().collect::<Option<Vec<WindowRecord>>>() else {
            for digest in [manifest.shard_table, manifest.lineage] {
                self.leave(&layout::table(self.catalog.dataset(), digest), "it follows from the records of all windows, and some are lost");
            }
            return Ok(());
        };
        let tables = [
            (manifest.shard_table, table::write(&shard_table(&windows)?, "the shard table")?),
            (manifest.lineage, table::write(&lineage(&windows)?, "the lineage")?),
        ];
        for (digest, bytes) in tables {
            let path = layout::table(self.catalog.dataset(), digest);
            if Digest::of(&bytes) != digest {
                self.leave(&path, "this cm3flow writes the same rows as other bytes");
            } else if self.job.store.get_checked(&path, digest).await.is_err() {
                self.replace(&path, bytes).await?;
            }
        }
        Ok(())
    }

    /// Records the digest of the manifest again, if verification found its sums right.
    async fn digest(&mut self, manifest: &VersionManifest, damaged: &[Damage]) -> Result<()> {
        let path = layout::manifest_digest(self.catalog.dataset(), self.version);
        if !damaged.iter().any(|damage| damage.place == Place::Digest) {
            return Ok(());
        }
        if damaged.iter().any(|damage| damage.place == Place::Manifest) {
            self.leave(&path, "the manifest is not what its windows make, so its digest is not recorded");
            return Ok(());
        }
        self.job.store.delete(&path).await?;
        self.catalog.record_digest(manifest).await
    }
}
