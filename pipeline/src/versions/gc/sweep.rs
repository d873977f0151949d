//! Sweep phase: goes through the store, folder by folder, and deletes unmarked objects.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use cm3flow_schemas::layout::{self, ARTEFACTS, CHECKPOINTS, RUNS, SCANS, SHARDS, UNITS, VERSIONS, WINDOWS};
use cm3flow_schemas::unit::SegmentName;
use futures::TryStreamExt;
use object_store::ObjectMeta;

use super::GcOutcome;
use super::mark::{Marked, RunState, runs};
use crate::error::Result;
use crate::plan::RunPlan;
use crate::store::Store;

/// Grace period of scans. They only save time, so they may go, but a later run is likely to use recent ones.
const SCANS_KEPT: chrono::Duration = chrono::Duration::days(30);
/// Objects deleted between two checks for new runs.
const DELETED_AT_ONCE: usize = 1000;

/// Folders in the order of the sweep. Within each, records that make other objects visible go first.
const FOLDERS: [&str; 8] = [VERSIONS, WINDOWS, UNITS, SHARDS, ARTEFACTS, CHECKPOINTS, SCANS, RUNS];

/// Deletes garbage, or only counts it, as `outcome` says.
pub(super) async fn sweep(store: &Store, marked: &Marked, cutoff: DateTime<Utc>, outcome: &mut GcOutcome) -> Result<()> {
    for folder in FOLDERS {
        let garbage = match folder {
            "checkpoints" => checkpoints(store, marked, cutoff).await?,
            "runs" => old_runs(store, marked, cutoff).await?,
            _ => plain(store, folder, marked, cutoff).await?,
        };
        let kind = outcome.garbage.entry(folder).or_default();
        for garbage in garbage.chunks(DELETED_AT_ONCE) {
            if outcome.applied {
                if let Some(run) = begun(store, marked, cutoff).await? {
                    outcome.interrupted_by = Some(run);
                    return Ok(());
                }
                for object in garbage {
                    store.delete(object.location.as_ref()).await?;
                }
            }
            kind.objects += garbage.len() as u64;
            kind.bytes += garbage.iter().map(|object| object.size).sum::<u64>();
        }
    }
    outcome.garbage.retain(|_, garbage| garbage.objects > 0);
    Ok(())
}

/// Returns a run that began after the mark phase.
async fn begun(store: &Store, marked: &Marked, cutoff: DateTime<Utc>) -> Result<Option<String>> {
    let now = runs(store, cutoff).await?.into_iter();
    let mut new = now.filter(|(run, state)| !matches!(state, RunState::Ended) && !marked.running.contains(run));
    Ok(new.next().map(|(run, _)| run))
}

/// Lists the garbage of a folder whose objects are judged by path and age, sorted by the order of deletion.
async fn plain(store: &Store, folder: &'static str, marked: &Marked, cutoff: DateTime<Utc>) -> Result<Vec<ObjectMeta>> {
    let cutoff = if folder == SCANS { cutoff - SCANS_KEPT } else { cutoff };
    let mut entries = store.entries(folder);
    let mut garbage = Vec::new();
    while let Some(entry) = entries.try_next().await? {
        let parts: Vec<&str> = entry.location.as_ref().split('/').collect();
        if entry.last_modified < cutoff && !stays(marked, &parts) {
            garbage.push(entry);
        }
    }
    garbage.sort_by_cached_key(|entry| rank(entry.location.as_ref()));
    Ok(garbage)
}

/// Checks whether an object stays whatever its age. Unknown paths do.
fn stays(marked: &Marked, path: &[&str]) -> bool {
    let version = |dataset: &str, number: &str| number.parse().map_or((String::new(), 0), |number| (dataset.to_owned(), number));
    match path {
        [VERSIONS, dataset, "tables", table] => table
            .strip_suffix(".parquet")
            .and_then(|digest| digest.parse().ok())
            .is_none_or(|digest| marked.tables.contains(&((*dataset).to_owned(), digest))),
        [VERSIONS, dataset, file] => {
            let number = file.strip_suffix(".json").or(file.strip_suffix(".digest"));
            number.is_none_or(|number| !marked.dropped.contains(&version(dataset, number)))
        }
        [WINDOWS, dataset, number, _, file] => {
            let digest = file.strip_suffix(".json").unwrap_or(file);
            number.parse::<u32>().is_err()
                || marked.windows.contains(&format!("{dataset}/{number}"))
                || marked.windows.contains(&format!("{dataset}/{number}/{digest}"))
        }
        [UNITS, segment, _, key, _] => {
            let segment = SegmentName::ALL.into_iter().find(|found| found.name() == *segment);
            segment.zip(key.parse().ok()).is_none_or(|unit| marked.units.contains(&unit))
        }
        [SHARDS, file] => {
            file.strip_suffix(".arrow").and_then(|digest| digest.parse().ok()).is_none_or(|digest| marked.shards.contains(&digest))
        }
        [ARTEFACTS, digest, _] => digest.parse().ok().is_none_or(|digest| marked.artefacts.contains(&digest)),
        [SCANS, _] => false,
        _ => true,
    }
}

/// Ranks objects by the order of deletion: a digest before its manifest, a manifest before its tables, records before their files.
fn rank(path: &str) -> (u8, String) {
    let name = path.rsplit('/').next().unwrap_or_default();
    let first = match name {
        name if name.ends_with(".digest") => 0,
        "unit.json" | "complete.json" => 1,
        name if path.starts_with(VERSIONS) && name.ends_with(".json") => 1,
        _ => 2,
    };
    (first, path.to_owned())
}

/// Lists the garbage among checkpoints: those that were never completed, and those of datasets without versions. Other checkpoints of
/// trainings stay, since they are costly to make again. Old ones of fits go, since a finished fit is pinned.
async fn checkpoints(store: &Store, marked: &Marked, cutoff: DateTime<Utc>) -> Result<Vec<ObjectMeta>> {
    let mut folders: BTreeMap<String, Vec<ObjectMeta>> = BTreeMap::new();
    let mut complete = BTreeSet::new();
    let mut entries = store.entries("checkpoints");
    while let Some(entry) = entries.try_next().await? {
        let parts: Vec<&str> = entry.location.as_ref().split('/').collect();
        // checkpoints/<dataset>/<key>/<step>/<file>
        if let [_, dataset, key, step, file] = parts.as_slice()
            && step.parse::<u64>().is_ok()
        {
            let folder = format!("{dataset}/{key}/{step}");
            if *file == "complete.json" {
                complete.insert(folder.clone());
            }
            folders.entry(folder).or_default().push(entry);
        }
    }
    let is_used = |folder: &str| {
        let dataset = folder.split('/').next().unwrap_or_default();
        complete.contains(folder) && marked.datasets.contains(dataset)
    };
    folders.retain(|folder, objects| !is_used(folder) && objects.iter().all(|object| object.last_modified < cutoff));
    let mut garbage: Vec<ObjectMeta> = folders.into_values().flatten().collect();
    garbage.sort_by_cached_key(|entry| rank(entry.location.as_ref()));
    Ok(garbage)
}

/// Lists the remains of ended runs. Keeps reports and events of versions that stay, with the plan that names the version, and those of
/// runs that only trained. A run that left only events had nothing to do.
async fn old_runs(store: &Store, marked: &Marked, cutoff: DateTime<Utc>) -> Result<Vec<ObjectMeta>> {
    let mut garbage = Vec::new();
    for (run, state) in runs(store, cutoff).await? {
        if !matches!(state, RunState::Ended) {
            continue;
        }
        let plan = RunPlan::find(store, &layout::run(&run)).await?;
        let objects: Vec<ObjectMeta> = store.entries(&layout::run(&run)).try_collect().await?;
        let is_report = |object: &ObjectMeta| object.location.filename() == Some("report.html");
        let is_kept = plan.map_or_else(|| objects.iter().any(is_report), |plan| marked.versions.contains(&(plan.dataset, plan.version)));
        let run = layout::run(&run);
        let folders = [layout::plans(&run), layout::events(&run)].map(|folder| format!("{folder}/"));
        let is_told = |object: &ObjectMeta| folders.iter().any(|folder| object.location.as_ref().starts_with(folder));
        let stays = |object: &ObjectMeta| is_kept && (is_report(object) || is_told(object));
        garbage.extend(objects.into_iter().filter(|object| !stays(object)));
    }
    Ok(garbage)
}
