//! Deletes what nothing refers to: what no version of any dataset, no tag, no pin and no running run names, and what is not young.
//!
//! Every manifest in the store is read first; if one cannot be, nothing is deleted. What goes is deleted in an order in which a crash
//! leaves nothing that looks whole and is not: manifests before tables and windows, records of units before their files and shards.
//! Older pins stay, and so do files that an attempt which lost a race left in the folder of a unit that stays.

mod mark;
mod sweep;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mark::Marked;
use serde::Serialize;

use crate::error::Result;
use crate::store::Store;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Deletes; otherwise it is only shown what would go.
    pub apply: bool,
    /// Objects younger than this stay, and a run that wrote one counts as running.
    pub grace: Duration,
    /// Keeps so many versions of the dataset, the highest ones; all if none. Tagged and young versions stay too, and always the latest.
    pub keep: Option<u32>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { apply: false, grace: Duration::from_secs(24 * 60 * 60), keep: None }
    }
}

/// Objects of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What went, or would go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcOutcome {
    /// Whether it was deleted.
    pub applied: bool,
    /// Versions of the dataset that are dropped.
    pub dropped_versions: Vec<u32>,
    /// Runs that count as running: what they plan stays.
    pub running: Vec<String>,
    /// Objects by the folder of the store that they lie in.
    pub garbage: BTreeMap<&'static str, Garbage>,
    /// The run that began meanwhile, for which the rest was left alone.
    pub interrupted_by: Option<String>,
}

impl GcOutcome {
    /// Over all kinds.
    #[must_use]
    pub fn total(&self) -> Garbage {
        self.garbage
            .values()
            .fold(Garbage::default(), |sum, kind| Garbage { objects: sum.objects + kind.objects, bytes: sum.bytes + kind.bytes })
    }
}

/// Collects garbage in `store`. Old versions are dropped of `dataset` alone; everything that other datasets refer to stays.
///
/// # Errors
/// [`crate::PipelineError::Damaged`] or [`crate::PipelineError::Record`] if a manifest or window cannot be read: it is not known what it
/// refers to. [`crate::PipelineError::Planning`] if a run has begun and not planned yet. What the store says.
pub async fn collect(store: &Store, dataset: &str, options: &GcOptions, now: DateTime<Utc>) -> Result<GcOutcome> {
    let cutoff = now - chrono::Duration::from_std(options.grace).unwrap_or(chrono::Duration::MAX);
    let marked = Marked::of(store, dataset, options, cutoff).await?;
    let mut outcome = GcOutcome {
        applied: options.apply,
        dropped_versions: marked.dropped.iter().filter(|(of, _)| of == dataset).map(|(_, version)| *version).collect(),
        running: marked.running.iter().cloned().collect(),
        ..GcOutcome::default()
    };
    sweep::sweep(store, &marked, cutoff, &mut outcome).await?;
    Ok(outcome)
}
