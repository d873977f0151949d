//! A manifest that is lost: it follows from the records of its windows, the configuration and the artefacts, and its digest is recorded.

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::version::{CodeChange, VersionManifest};
use cm3flow_schemas::window::WindowRecord;
use futures::TryStreamExt;

use super::Work;
use crate::artefact::{self, Artefacts};
use crate::error::{PipelineError, Result};
use crate::plan::{Plan, WindowPlan, digest_of_windows};
use crate::store::record_bytes;

/// What a manifest says beyond its windows, configuration and artefacts.
struct Candidates {
    base: Vec<Option<u32>>,
    code_changes: Vec<BTreeMap<String, CodeChange>>,
    blocklists: Vec<Option<Digest>>,
}

impl Work<'_> {
    /// Makes the manifest again; returns whether it is whole now.
    pub(super) async fn restore_manifest(&mut self) -> Result<bool> {
        let path = self.catalog.version_path(self.version);
        let recorded = match self.catalog.recorded_digest(self.version).await {
            Ok(Some(recorded)) => recorded,
            Ok(None) | Err(PipelineError::Damaged { .. }) => {
                self.leave(
                    &path,
                    "its digest is not recorded either, so nothing would prove that a new one is equal; restore it from a copy",
                );
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut artefacts = match artefact::pinned(&self.config, self.store).await {
            Ok(Some(artefacts)) => artefacts,
            Ok(None) => {
                self.leave(&path, "the tokenizers of this configuration are neither given nor fitted");
                return Ok(false);
            }
            Err(error @ PipelineError::Store { .. }) => return Err(error),
            Err(error) => {
                self.leave(&path, error.to_string());
                return Ok(false);
            }
        };
        for plan in self.store.names(&format!("windows/{}/{}", self.config.dataset.name, self.version)).await? {
            let Some(windows) = self.windows_below(&plan).await? else { continue };
            let candidates = self.candidates(&artefacts, &windows).await?;
            if let Some(manifest) = self.matching(&mut artefacts, &windows, &candidates, recorded)? {
                self.replace(&path, record_bytes(&manifest)).await?;
                return Ok(true);
            }
        }
        self.leave(
            &path,
            "nothing that its windows, this configuration and the present artefacts make has the recorded digest; \
             use the configuration that the version was made with, and repair damaged windows of its neighbours first",
        );
        Ok(false)
    }

    /// Records of the windows of a plan, if all of them can be read.
    async fn windows_below(&self, plan: &str) -> Result<Option<Vec<WindowRecord>>> {
        let folder = format!("windows/{}/{}/{plan}", self.config.dataset.name, self.version);
        let mut windows = Vec::new();
        for index in 0..self.store.names(&folder).await?.len() {
            match self.store.record::<WindowRecord>(&format!("{folder}/{index}.json"), "window record").await {
                Ok(Some(record)) => windows.push(record),
                Ok(None) | Err(PipelineError::Record { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(windows).filter(|windows| !windows.is_empty()))
    }

    async fn candidates(&self, artefacts: &Artefacts, windows: &[WindowRecord]) -> Result<Candidates> {
        let earlier = self.catalog.versions().await?.into_iter().filter(|number| *number < self.version);
        let mut base: Vec<Option<u32>> = earlier.map(Some).collect();
        base.push(None);
        // The version before is the likely one.
        base.reverse();
        let mut code_changes = vec![BTreeMap::new()];
        let mut beside = self.store.entries(&format!("artefacts/{}", artefacts.image_spec.digest));
        while let Some(entry) = beside.try_next().await? {
            if entry.location.filename().is_some_and(|name| name.starts_with("code-changes-")) {
                code_changes.extend(self.store.record(entry.location.as_ref(), "list of changed codes").await?);
            }
        }
        let mut blocklists = vec![None];
        blocklists.extend(windows.iter().map(|window| window.blocklist).filter(Option::is_some));
        for name in self.store.names(&format!("versions/{}/tables", self.config.dataset.name)).await? {
            blocklists.extend(name.strip_suffix(".parquet").and_then(|digest| digest.parse().ok()).map(Some));
        }
        blocklists.dedup();
        Ok(Candidates { base, code_changes, blocklists })
    }

    /// The manifest among all candidates that has the recorded digest.
    fn matching(
        &self,
        artefacts: &mut Artefacts,
        windows: &[WindowRecord],
        candidates: &Candidates,
        recorded: Digest,
    ) -> Result<Option<VersionManifest>> {
        let Some(plans) = windows.iter().map(WindowPlan::of_record).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let digest = digest_of_windows(plans.iter().map(|window| &window.keys));
        for code_changes in &candidates.code_changes {
            artefacts.code_changes.clone_from(code_changes);
            let plan = Plan {
                version: self.version,
                base: None,
                is_published: false,
                digest,
                blocklist: None,
                windows: Vec::new(),
                removed_samples: 0,
                made_anew_from: None,
            };
            // Sums that do not add up belong to a run that was given up.
            let Ok((mut manifest, _)) = self.catalog.manifest_of(&self.config, artefacts, &plan, windows) else { return Ok(None) };
            for base in &candidates.base {
                for blocklist in &candidates.blocklists {
                    (manifest.base, manifest.blocklist) = (*base, *blocklist);
                    if Digest::of(&record_bytes(&manifest)) == recorded {
                        return Ok(Some(manifest));
                    }
                }
            }
        }
        Ok(None)
    }
}
