//! Difference of two versions of a dataset: counts from their manifests, and the samples that came and went.

mod fields;
mod ids;

use std::collections::{BTreeMap, BTreeSet};

use cm3flow_schemas::SampleId;
use cm3flow_schemas::pack::TaskStatistics;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use serde::Serialize;

pub use fields::FieldChange;
pub(crate) use fields::compare as differing_fields;

use crate::catalog::{Catalog, Published, VersionRef};
use crate::error::Result;
use crate::store::Store;

/// One count in both versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Count in the first version.
    pub before: u64,
    /// Count in the second version.
    pub after: u64,
}

impl Change {
    /// Returns the second count minus the first.
    #[must_use]
    pub fn difference(self) -> i128 {
        i128::from(self.after) - i128::from(self.before)
    }
}

/// Counts by name, for all names in either version.
pub type Changes = BTreeMap<String, Change>;

/// Counts of one task in one split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TaskChanges {
    /// Name of the split.
    pub split: String,
    /// Name of the task.
    pub task: String,
    /// Number of documents.
    pub documents: Change,
    /// Number of text tokens.
    pub text_tokens: Change,
    /// Number of image tokens.
    pub image_tokens: Change,
    /// Number of control tokens.
    pub control_tokens: Change,
    /// Number of masked spans.
    pub spans: Change,
    /// Number of retrieved documents.
    pub retrieved: Change,
}

/// Kept samples that only one of the versions has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SampleChanges {
    /// Number of samples that only the second version has.
    pub added: u64,
    /// Number of samples that only the first version has.
    pub removed: u64,
    /// Smallest ids of the added samples, sorted.
    pub added_examples: Vec<SampleId>,
    /// Smallest ids of the removed samples, sorted.
    pub removed_examples: Vec<SampleId>,
}

/// Counts of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SourceChanges {
    /// Number of units.
    pub units: Change,
    /// Number of samples in these units.
    pub rows: Change,
    /// Number of units that only the second version has.
    pub added_units: u64,
    /// Number of units that only the first version has.
    pub removed_units: u64,
}

/// Counts of windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WindowChanges {
    /// Number of common windows at the beginning.
    pub shared: u64,
    /// Number of windows that only the second version has.
    pub added: u64,
    /// Number of windows that only the first version has.
    pub removed: u64,
}

/// Difference of two versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionDiff {
    /// Name of the dataset.
    pub dataset: String,
    /// Number of the first version.
    pub before: u32,
    /// Number of the second version.
    pub after: u32,
    /// Samples by outcome.
    pub samples: Changes,
    /// Refused samples, by reason.
    pub refused_samples: Changes,
    /// Kept samples that came and went.
    pub kept_samples: SampleChanges,
    /// Documents by outcome.
    pub documents: Changes,
    /// Refused documents, by reason.
    pub refused_documents: Changes,
    /// Documents and tokens of each task and split.
    pub tasks: Vec<TaskChanges>,
    /// Packs of each split, and the tokens used in them.
    pub packs: Changes,
    /// Sources by name.
    pub sources: BTreeMap<String, SourceChanges>,
    /// Common, added and removed windows.
    pub windows: WindowChanges,
    /// Licences of the kept samples.
    pub licenses: Changes,
    /// Different fields of configuration, seed, artefacts, preparation and numerics class.
    pub settings: Vec<FieldChange>,
    /// Different fields of the vocabulary.
    pub vocabulary: Vec<FieldChange>,
}

/// Compares two versions of `dataset`; names at most `examples` samples that came, and as many that went.
///
/// # Errors
/// [`crate::PipelineError::NoVersion`], [`crate::PipelineError::Damaged`], or those of the store.
pub async fn diff(store: &Store, dataset: &str, before: &VersionRef, after: &VersionRef, examples: usize) -> Result<VersionDiff> {
    let catalog = Catalog::new(store.clone(), dataset);
    let before = Published::open(&catalog, Some(before)).await?;
    let after = Published::open(&catalog, Some(after)).await?;
    let shared = shared_windows(&before.windows, &after.windows);
    let kept_samples = ids::compare(store, &before, &after, shared, examples).await?;
    let (windows, before, after) = ((before.windows, after.windows), before.manifest, after.manifest);
    let ledgers = (&before.samples, &after.samples);
    let documents = (&before.documents, &after.documents);
    let sample = |name: &str, before, after| (name.to_owned(), Change { before, after });
    Ok(VersionDiff {
        dataset: dataset.to_owned(),
        before: before.version,
        after: after.version,
        samples: Changes::from([
            sample("in", ledgers.0.input, ledgers.1.input),
            sample("kept", ledgers.0.kept, ledgers.1.kept),
            sample("refused", ledgers.0.refused_total(), ledgers.1.refused_total()),
            sample("duplicate", ledgers.0.duplicate, ledgers.1.duplicate),
            sample("withdrawn", ledgers.0.withdrawn, ledgers.1.withdrawn),
            sample("quarantined", ledgers.0.quarantined, ledgers.1.quarantined),
        ]),
        refused_samples: changes(&ledgers.0.refused, &ledgers.1.refused),
        kept_samples,
        documents: Changes::from([
            sample("built", documents.0.built, documents.1.built),
            sample("packed", documents.0.packed, documents.1.packed),
            sample("refused", documents.0.refused.values().sum(), documents.1.refused.values().sum()),
        ]),
        refused_documents: changes(&documents.0.refused, &documents.1.refused),
        tasks: tasks(&before, &after),
        packs: packs(&before, &after),
        sources: sources(&windows.0, &windows.1),
        windows: WindowChanges {
            shared: shared as u64,
            added: (windows.1.len() - shared) as u64,
            removed: (windows.0.len() - shared) as u64,
        },
        licenses: changes(&before.licenses, &after.licenses),
        settings: fields::settings(&before, &after),
        vocabulary: fields::vocabulary(&before, &after),
    })
}

/// Returns the number of windows, from the first on, in which both versions settled the same units in the same way.
fn shared_windows(before: &[WindowRecord], after: &[WindowRecord]) -> usize {
    before.iter().zip(after).take_while(|(before, after)| before.keys.settle() == after.keys.settle()).count()
}

fn changes(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Changes {
    let count = |of: &BTreeMap<String, u64>, name: &String| of.get(name).copied().unwrap_or(0);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().map(|name| (name.clone(), Change { before: count(before, name), after: count(after, name) })).collect()
}

fn packs(before: &VersionManifest, after: &VersionManifest) -> Changes {
    let counts = |manifest: &VersionManifest| -> BTreeMap<String, u64> {
        let of = |(split, counts): (&String, &cm3flow_schemas::pack::PackStatistics)| {
            [(format!("{split} packs"), counts.packs), (format!("{split} tokens"), counts.used)]
        };
        manifest.statistics.iter().flat_map(of).collect()
    };
    changes(&counts(before), &counts(after))
}

fn tasks(before: &VersionManifest, after: &VersionManifest) -> Vec<TaskChanges> {
    let names = |manifest: &VersionManifest| -> Vec<(String, String)> {
        let tasks = manifest.statistics.iter().flat_map(|(split, counts)| counts.tasks.keys().map(move |task| (split, task)));
        tasks.map(|(split, task)| (split.clone(), task.clone())).collect()
    };
    let counts = |manifest: &VersionManifest, split: &str, task: &str| -> TaskStatistics {
        manifest.statistics.get(split).and_then(|counts| counts.tasks.get(task)).cloned().unwrap_or_default()
    };
    let all: BTreeSet<(String, String)> = names(before).into_iter().chain(names(after)).collect();
    let change = |(split, task): (String, String)| {
        let (old, new) = (counts(before, &split, &task), counts(after, &split, &task));
        let change = |of: fn(&TaskStatistics) -> u64| Change { before: of(&old), after: of(&new) };
        TaskChanges {
            documents: change(|counts| counts.documents),
            text_tokens: change(|counts| counts.text_tokens),
            image_tokens: change(|counts| counts.image_tokens),
            control_tokens: change(|counts| counts.control_tokens),
            spans: change(|counts| counts.spans),
            retrieved: change(|counts| counts.retrieved),
            split,
            task,
        }
    };
    all.into_iter().map(change).collect()
}

fn sources(before: &[WindowRecord], after: &[WindowRecord]) -> BTreeMap<String, SourceChanges> {
    let units = |windows: &[WindowRecord]| -> BTreeMap<SourceUnit, u64> {
        let mut counts = BTreeMap::new();
        for unit in windows.iter().flat_map(|window| &window.units) {
            // Two files with equal content are two units, whatever their names.
            *counts.entry(SourceUnit { file: String::new(), ..unit.clone() }).or_default() += 1;
        }
        counts
    };
    let (before, after) = (units(before), units(after));
    let mut sources: BTreeMap<String, SourceChanges> = BTreeMap::new();
    for unit in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (before.get(unit).copied().unwrap_or(0), after.get(unit).copied().unwrap_or(0));
        let source = sources.entry(unit.source.clone()).or_default();
        source.units = Change { before: source.units.before + old, after: source.units.after + new };
        source.rows = Change { before: source.rows.before + old * unit.rows, after: source.rows.after + new * unit.rows };
        source.added_units += new.saturating_sub(old);
        source.removed_units += old.saturating_sub(new);
    }
    sources
}
