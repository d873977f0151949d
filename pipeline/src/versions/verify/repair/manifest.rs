//! Repair of a lost manifest: it follows from its window records, configuration and artefacts, and its recorded digest proves it.

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

/// Sequences of window records that are tried, at most.
const MOST_RUNS: usize = 64;

/// Possible values of those fields that windows, configuration and artefacts do not give.
struct Candidates {
    base: Vec<Option<u32>>,
    code_changes: Vec<BTreeMap<String, CodeChange>>,
    blocklists: Vec<Option<Digest>>,
}

impl Work {
    /// Makes the manifest again; returns `true` if it is whole now.
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

    /// Returns sequences of window records that may be the version's, the longest first. Abandoned runs may have left other records.
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
        // The previous version is the most likely base.
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

    /// Returns the manifest with the recorded digest, if it is among the candidates.
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
            // Sums that do not add up come from records of an abandoned run.
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
