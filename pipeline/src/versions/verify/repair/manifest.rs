//! A manifest that is lost: it follows from the records of its windows, the configuration and the artefacts, and its digest is recorded.

use std::collections::BTreeMap;

use cm3flow_schemas::version::{CodeChange, VersionManifest};
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};
use futures::TryStreamExt;

use super::Work;
use crate::artefact;
use crate::artefact::Artefacts;
use crate::error::{PipelineError, Result};
use crate::plan::Plan;
use crate::source::scan::Drift;
use crate::store::record_bytes;

/// Most runs of window records that are tried.
const MOST_RUNS: usize = 64;

/// What a manifest says beyond its windows, configuration and artefacts.
struct Candidates {
    base: Vec<Option<u32>>,
    code_changes: Vec<BTreeMap<String, CodeChange>>,
    blocklists: Vec<Option<Digest>>,
}

impl Work {
    /// Makes the manifest again; returns whether it is whole now.
    pub(super) async fn restore_manifest(&mut self) -> Result<bool> {
        let path = layout::manifest(self.catalog.dataset(), self.version);
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
        let mut artefacts = match artefact::pinned(&self.job).await {
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
        for windows in self.possible_windows().await? {
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

    /// Runs of window records that may be those of the version, the longest first. Runs that were given up may have left some too.
    async fn possible_windows(&self) -> Result<Vec<Vec<WindowRecord>>> {
        let folder = layout::windows(self.job.dataset(), self.version);
        let mut runs: Vec<Vec<WindowRecord>> = vec![Vec::new()];
        let mut possible = Vec::new();
        for index in 0.. {
            let mut records = Vec::new();
            for name in self.job.store.names(&format!("{folder}/{index}")).await? {
                match self.job.store.record::<WindowRecord>(&format!("{folder}/{index}/{name}"), "window record").await {
                    Ok(record) => records.extend(record),
                    Err(PipelineError::Record { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let longer =
                runs.iter().flat_map(|run| records.iter().map(move |record| [run.as_slice(), std::slice::from_ref(record)].concat()));
            runs = longer.take(MOST_RUNS).collect();
            if runs.is_empty() {
                break;
            }
            possible.extend(runs.iter().cloned());
        }
        possible.reverse();
        Ok(possible)
    }

    async fn candidates(&self, artefacts: &Artefacts, windows: &[WindowRecord]) -> Result<Candidates> {
        let earlier = self.catalog.versions().await?.into_iter().filter(|number| *number < self.version);
        let mut base: Vec<Option<u32>> = earlier.map(Some).collect();
        base.push(None);
        // The version before is the likely one.
        base.reverse();
        let mut code_changes = vec![BTreeMap::new()];
        let mut beside = self.job.store.entries(&layout::artefact(artefacts.image_spec.digest));
        while let Some(entry) = beside.try_next().await? {
            if entry.location.filename().is_some_and(|name| name.starts_with("code-changes-")) {
                code_changes.extend(self.job.store.record(entry.location.as_ref(), "list of changed codes").await?);
            }
        }
        let mut blocklists = vec![None];
        blocklists.extend(windows.iter().map(|window| window.blocklist).filter(Option::is_some));
        for name in self.job.store.names(&layout::tables(self.job.dataset())).await? {
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
        for code_changes in &candidates.code_changes {
            artefacts.code_changes.clone_from(code_changes);
            let plan = Plan {
                version: self.version,
                base: None,
                is_published: false,
                blocklist: None,
                windows: Vec::new(),
                drift: Drift::default(),
                made_anew_from: None,
                replayed_samples: 0,
            };
            // Sums that do not add up belong to a run that was given up.
            let Ok((mut manifest, _)) = self.catalog.manifest_of(&self.job.config, artefacts, &plan, windows) else { return Ok(None) };
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
