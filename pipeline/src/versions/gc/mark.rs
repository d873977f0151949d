//! Mark phase: references from versions that stay, pins and running runs.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};
use futures::TryStreamExt;

use super::GcOptions;
use crate::artefact;
use crate::catalog::Catalog;
use crate::error::{PipelineError, Result};
use crate::plan::RunPlan;
use crate::store::Store;

/// References to everything that stays.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// Versions that stay, by dataset and number.
    pub(super) versions: BTreeSet<(String, u32)>,
    /// Versions that go.
    pub(super) dropped: BTreeSet<(String, u32)>,
    pub(super) units: HashSet<(SegmentName, Digest)>,
    pub(super) shards: HashSet<Digest>,
    /// Digests of artefacts, which name their folders.
    pub(super) artefacts: HashSet<Digest>,
    /// Tables by dataset.
    pub(super) tables: HashSet<(String, Digest)>,
    /// Window records: `<dataset>/<version>/<digest>`, or `<dataset>/<version>` for all windows of a running run.
    pub(super) windows: HashSet<String>,
    /// Runs that wrote an object since the cutoff.
    pub(super) running: BTreeSet<String>,
    /// Datasets with versions that stay.
    pub(super) datasets: BTreeSet<String>,
    /// Pack units of windows from which samples were withdrawn.
    rewritten: BTreeSet<Digest>,
}

impl Marked {
    pub(super) async fn of(store: &Store, dataset: &str, options: &GcOptions, cutoff: DateTime<Utc>) -> Result<Self> {
        let mut marked = Self::default();
        let mut bases = BTreeSet::new();
        for (run, state) in runs(store, cutoff).await? {
            match state {
                RunState::Ended => {}
                RunState::Unplanned => return Err(PipelineError::Planning { run }),
                RunState::Running(plan) => {
                    if let Some(plan) = plan {
                        bases.extend(plan.base.map(|base| (plan.dataset.clone(), base)));
                        marked.plan(store, &plan).await?;
                    }
                    marked.running.insert(run);
                }
            }
        }
        for name in store.names(layout::VERSIONS).await? {
            let keep = options.keep.filter(|_| name == dataset);
            marked.dataset(store, &name, keep, &bases, cutoff).await?;
        }
        for dataset in store.names(layout::PINS).await? {
            marked.artefacts.extend(artefact::latest_pinned(store, &dataset).await?);
        }
        marked.unmark_rewritten(store).await?;
        Ok(marked)
    }

    /// Decides which versions of a dataset go, and marks the references of the others.
    async fn dataset(
        &mut self,
        store: &Store,
        name: &str,
        keep: Option<u32>,
        bases: &BTreeSet<(String, u32)>,
        cutoff: DateTime<Utc>,
    ) -> Result<()> {
        let catalog = Catalog::new(store.clone(), name);
        let numbers = catalog.versions().await?;
        let tagged: BTreeSet<u32> = catalog.tags().await?.into_iter().map(|tag| tag.version).collect();
        let young = young_versions(store, name, cutoff).await?;
        let newest = numbers.iter().rev().take(keep.map_or(usize::MAX, |keep| keep.max(1) as usize)).copied();
        let newest: BTreeSet<u32> = newest.collect();
        for number in numbers {
            let is_base = bases.contains(&(name.to_owned(), number));
            if newest.contains(&number) || tagged.contains(&number) || young.contains(&number) || is_base {
                let manifest = catalog.version(number).await?;
                let windows = catalog.windows_of(&manifest).await?;
                self.version(&manifest, &windows);
            } else {
                self.dropped.insert((name.to_owned(), number));
            }
        }
        Ok(())
    }

    fn version(&mut self, manifest: &VersionManifest, windows: &[WindowRecord]) {
        let dataset = &manifest.dataset;
        self.versions.insert((dataset.clone(), manifest.version));
        self.datasets.insert(dataset.clone());
        self.windows.extend(manifest.windows.iter().map(|window| format!("{dataset}/{}/{window}", manifest.version)));
        self.artefacts.extend(manifest.artefacts.values().chain(manifest.fitted.values()));
        let blocklists = windows.iter().filter_map(|window| window.blocklist).chain(manifest.blocklist);
        self.tables.extend([manifest.shard_table, manifest.lineage].into_iter().chain(blocklists).map(|table| (dataset.clone(), table)));
        for window in windows {
            self.shards.extend(window.shards.iter().map(|shard| shard.digest));
            for segment in SegmentName::ALL {
                let keys = window.keys.of(segment);
                self.units.extend(keys.iter().map(|key| (segment, *key)));
                if segment == SegmentName::Pack && (window.samples.withdrawn > 0 || window.documents.withdrawn > 0) {
                    self.rewritten.extend(keys);
                }
            }
        }
    }

    /// Marks the units that a running run plans, and the shards that it has made.
    async fn plan(&mut self, store: &Store, plan: &RunPlan) -> Result<()> {
        self.windows.insert(format!("{}/{}", plan.dataset, plan.version));
        for keys in plan.keys() {
            self.units.extend(SegmentName::ALL.into_iter().flat_map(|segment| keys.of(segment).iter().map(move |key| (segment, *key))));
            for key in keys.pack {
                self.shards.extend(shards_of(store, key).await?);
            }
        }
        Ok(())
    }

    /// Unmarks pack units that lose some of their shards to a rewrite: they would look whole to a later run.
    async fn unmark_rewritten(&mut self, store: &Store) -> Result<()> {
        for key in std::mem::take(&mut self.rewritten) {
            if shards_of(store, key).await?.iter().any(|shard| !self.shards.contains(shard)) {
                self.units.remove(&(SegmentName::Pack, key));
            }
        }
        Ok(())
    }
}

/// Returns the shards of a pack unit; none if it does not exist.
async fn shards_of(store: &Store, key: Digest) -> Result<Vec<Digest>> {
    let path = layout::unit_record(SegmentName::Pack, key);
    let record: Option<UnitRecord> = store.record(&path, "unit record").await?;
    Ok(record.map_or_else(Vec::new, |record| record.shards.iter().map(|shard| shard.digest).collect()))
}

async fn young_versions(store: &Store, dataset: &str, cutoff: DateTime<Utc>) -> Result<BTreeSet<u32>> {
    let mut entries = store.entries(&layout::versions(dataset));
    let mut young = BTreeSet::new();
    while let Some(entry) = entries.try_next().await? {
        let number = entry.location.filename().and_then(layout::number_of::<u32>);
        young.extend(number.filter(|_| entry.last_modified >= cutoff));
    }
    Ok(young)
}

/// State of a run.
pub(super) enum RunState {
    /// The run wrote nothing since the cutoff.
    Ended,
    /// The run wrote since the cutoff and is at work, but has no plan yet.
    Unplanned,
    /// The run wrote since the cutoff. It has a plan unless it only trained or had nothing to do.
    Running(Option<RunPlan>),
}

/// Lists all runs with their states.
pub(super) async fn runs(store: &Store, cutoff: DateTime<Utc>) -> Result<Vec<(String, RunState)>> {
    let mut runs = Vec::new();
    for run in store.names(layout::RUNS).await? {
        let (mut is_young, mut is_at_work) = (false, false);
        let folder = layout::run(&run);
        let mut entries = store.entries(&folder);
        while let Some(entry) = entries.try_next().await? {
            is_young |= entry.last_modified >= cutoff;
            // A run removes its heartbeats at its end.
            is_at_work |= entry.location.as_ref().starts_with(&layout::heartbeats(&folder));
        }
        let state = if is_young {
            match RunPlan::find(store, &folder).await? {
                None if is_at_work => RunState::Unplanned,
                plan => RunState::Running(plan),
            }
        } else {
            RunState::Ended
        };
        runs.push((run, state));
    }
    Ok(runs)
}
