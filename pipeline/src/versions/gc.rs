//! Garbage collection: deletes old objects that no version, tag, pin or running run refers to, in any dataset.
//!
//! It reads every manifest first and deletes nothing if one is unreadable. The order of deletions lets a crash leave nothing incomplete
//! that looks whole: manifests before tables and windows, records of units before their files and shards. It keeps older pins, and
//! files of attempts that lost a race in the folder of a unit that stays.

mod mark;
mod sweep;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use mark::Marked;

use crate::error::Result;
use crate::store::Store;

/// Options of a garbage collection.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// `true` to delete; otherwise garbage is only counted.
    pub apply: bool,
    /// Objects younger than this stay, and a run that wrote one counts as running.
    pub grace: Duration,
    /// Number of the dataset's highest versions to keep; all if none. Tagged and young versions stay too, and always the latest.
    pub keep: Option<u32>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { apply: false, grace: Duration::from_secs(24 * 60 * 60), keep: None }
    }
}

/// Counts of one kind of garbage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// Number of objects.
    pub objects: u64,
    /// Sum of their sizes.
    pub bytes: u64,
}

/// Result of a garbage collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcOutcome {
    /// `true` if garbage was deleted.
    pub applied: bool,
    /// Dropped versions of the dataset.
    pub dropped_versions: Vec<u32>,
    /// Runs that count as running: objects of their plans stay.
    pub running: Vec<String>,
    /// Garbage by top folder in the store.
    pub garbage: BTreeMap<&'static str, Garbage>,
    /// A run that began meanwhile, so that the rest of the garbage was left alone.
    pub interrupted_by: Option<String>,
}

impl GcOutcome {
    /// Sums over all kinds.
    #[must_use]
    pub fn total(&self) -> Garbage {
        self.garbage
            .values()
            .fold(Garbage::default(), |sum, kind| Garbage { objects: sum.objects + kind.objects, bytes: sum.bytes + kind.bytes })
    }
}

/// Collects garbage in `store`. Drops old versions of `dataset` alone; everything that other datasets refer to stays.
///
/// # Errors
/// [`crate::PipelineError::Damaged`] or [`crate::PipelineError::Record`] if a manifest or window is unreadable, since its references are
/// unknown then; [`crate::PipelineError::Planning`] if a run has begun and not planned yet; those of the store.
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
