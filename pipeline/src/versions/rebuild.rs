//! Rebuild: makes a version again from its own record, in a scratch store, and compares units, shards, window records and manifest.
//!
//! It takes prepared units from the store, and makes missing ones from the sources; everything after them is made again, withdrawals
//! too. From scratch, it also makes the prepared units again, as far as the sources still hold their rows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};
use serde::Serialize;

use crate::artefact;
use crate::catalog::{Published, VersionRef};
use crate::config::{Config, Job};
use crate::error::Result;
use crate::execute::{Again, Sources};
use crate::plan::{Plan, WindowPlan, config_of_version, output_config};
use crate::store::scratch::{Hidden, Scratch};
use crate::store::{Store, record_bytes};
use crate::versions::diff::{FieldChange, differing_fields};
use crate::versions::withdraw::redo;

/// Counts of a segment's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SegmentUnits {
    /// Number of units of the version.
    pub units: u64,
    /// Number of units made again.
    pub made: u64,
    /// Number of units made again that equal those in the store.
    pub equal: u64,
    /// Number of units made again that the store does not hold, so that nothing compares with them.
    pub absent: u64,
}

/// Result of a rebuild.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rebuild {
    /// Number of the version.
    pub version: u32,
    /// Units by segment.
    pub segments: BTreeMap<&'static str, SegmentUnits>,
    /// Number of shards made again, all equal unless `first_difference` tells otherwise.
    pub shards: u64,
    /// Prepared units taken from the store in a rebuild from scratch, because the sources no longer hold their rows.
    pub kept_units: u64,
    /// Settings of the configuration file that differ from the version's; the rebuild used the version's.
    pub settings: Vec<FieldChange>,
    /// First segment whose units this cm3flow names differently under the version's settings.
    pub other_units_from: Option<&'static str>,
    /// `true` if this machine computes in the version's numerics class.
    pub is_same_numerics: bool,
    /// Recorded digest of the manifest.
    pub manifest: Digest,
    /// First different object, in order of the flow.
    pub first_difference: Option<String>,
}

/// Makes `version` of the dataset of `job` again, the latest if `None`, and compares it.
///
/// # Errors
/// [`crate::PipelineError::Mismatch`] if the configuration asks for other artefacts; [`crate::PipelineError::Gone`] or [`crate::PipelineError::Numerics`] if
/// a unit cannot be prepared again; those of a stage or the store. A difference is no error.
pub async fn rebuild(job: &Job, version: Option<&VersionRef>, is_from_scratch: bool) -> Result<Rebuild> {
    let (store, catalog) = (&job.store, job.catalog());
    let Published { manifest, windows, .. } = Published::open(&catalog, version).await?;
    let of_version = Job { config: Arc::new(config_of_version(&job.config, &manifest)), ..job.clone() };
    let artefacts = artefact::of_version(&of_version, &manifest).await?;
    let recorded = catalog.recorded_digest(manifest.version).await?.unwrap_or_else(|| Digest::of(&record_bytes(&manifest)));
    let mut outcome = Rebuild {
        version: manifest.version,
        segments: SegmentName::ALL.map(|segment| (segment.name(), SegmentUnits::default())).into(),
        shards: 0,
        kept_units: 0,
        settings: other_settings(&manifest, &job.config),
        other_units_from: Plan::differs_from(&of_version.config, &artefacts, &windows).map(SegmentName::name),
        is_same_numerics: artefacts.numerics == manifest.numerics,
        manifest: recorded,
        first_difference: None,
    };

    let sources = Sources::new(of_version.clone(), windows.iter().flat_map(|window| window.units.clone()).collect());
    let kept = if is_from_scratch { unreadable(&windows, &sources).await } else { HashSet::new() };
    outcome.kept_units = kept.len() as u64;
    let scratch = Scratch::over(store, hidden(&manifest, is_from_scratch, kept))?;
    let plans = windows.iter().map(WindowPlan::of_record).collect();
    let plan = Plan::of_version(&manifest, plans);
    let mut again = Again::try_new(of_version.on(scratch.store.clone()), artefacts, plan, manifest.numerics.clone(), sources)?;
    let mut comparison = Comparison { store, scratch: &scratch, outcome };
    let mut made = Vec::with_capacity(windows.len());
    for (index, record) in windows.iter().enumerate() {
        job.progress.say(&format!("making window {} of {} again", index + 1, windows.len()));
        let window = redo(&scratch.store, &manifest, again.window().await?).await?;
        comparison.window(&manifest, record, &window).await?;
        made.push(window);
    }
    let rebuilt = again.manifest(&made)?;
    let rebuilt = VersionManifest { numerics: manifest.numerics.clone(), ..rebuilt };
    let mut outcome = comparison.outcome;
    let path = layout::manifest(catalog.dataset(), manifest.version);
    if Digest::of(&record_bytes(&rebuilt)) != recorded {
        outcome.first_difference = outcome.first_difference.or(Some(path));
    }
    Ok(outcome)
}

/// Lists settings of `present` that differ from those of the version.
fn other_settings(manifest: &VersionManifest, present: &Config) -> Vec<FieldChange> {
    let mut settings = differing_fields(&manifest.config, &output_config(present));
    if manifest.seed != present.dataset.seed {
        let [before, after] = [manifest.seed, present.dataset.seed].map(|seed| Some(seed.to_string()));
        settings.push(FieldChange { field: "dataset.seed".into(), before, after });
    }
    settings
}

/// Returns the folders of prepared units whose rows the sources no longer hold.
async fn unreadable(windows: &[WindowRecord], sources: &Sources) -> HashSet<String> {
    let mut kept = HashSet::new();
    for window in windows {
        let keys = &window.keys.prepare;
        for (unit, key) in window.units.iter().zip(keys) {
            if sources.unit(unit).await.is_err() {
                kept.insert(layout::unit(SegmentName::Prepare, *key));
            }
        }
    }
    kept
}

/// Hides the objects that the rebuild must make again.
fn hidden(manifest: &VersionManifest, is_from_scratch: bool, kept: HashSet<String>) -> Hidden {
    let windows = format!("{}/", layout::windows(&manifest.dataset, manifest.version));
    let prepared = format!("{}/{}/", layout::UNITS, SegmentName::Prepare.name());
    Arc::new(move |path: &str| {
        let is_shown = if path.starts_with(&prepared) {
            !is_from_scratch || path.rsplit_once('/').is_some_and(|(folder, _)| kept.contains(folder))
        } else {
            !path.starts_with("units/") && !path.starts_with("shards/") && !path.starts_with(&windows)
        };
        !is_shown
    })
}

/// Comparison in progress.
struct Comparison<'a> {
    store: &'a Store,
    scratch: &'a Scratch,
    outcome: Rebuild,
}

impl Comparison<'_> {
    async fn window(&mut self, manifest: &VersionManifest, record: &WindowRecord, made: &WindowRecord) -> Result<()> {
        for segment in SegmentName::ALL {
            for key in record.keys.of(segment) {
                self.unit(segment, *key).await?;
            }
        }
        self.outcome.shards += made.shards.len() as u64;
        let shard = record.shards.iter().zip(&made.shards).find(|(recorded, made)| recorded != made).map(|(recorded, _)| recorded);
        let shard = shard.or_else(|| record.shards.get(made.shards.len()));
        if let Some(shard) = shard {
            self.differs(layout::shard(shard.digest));
        } else if Digest::of(&record_bytes(made)) != manifest.windows[record.window as usize] {
            self.differs(format!("the record of window {}", record.window));
        }
        Ok(())
    }

    async fn unit(&mut self, segment: SegmentName, key: Digest) -> Result<()> {
        let path = layout::unit_record(segment, key);
        let made = self.scratch.written.record::<UnitRecord>(&path, "unit record").await?;
        let recorded = self.store.record::<UnitRecord>(&path, "unit record").await?;
        let counts = self.outcome.segments.entry(segment.name()).or_default();
        counts.units += 1;
        let Some(made) = made else { return Ok(()) };
        counts.made += 1;
        match recorded {
            None => counts.absent += 1,
            Some(recorded) if recorded == made => counts.equal += 1,
            Some(_) => self.differs(path),
        }
        Ok(())
    }

    fn differs(&mut self, path: String) {
        self.outcome.first_difference.get_or_insert(path);
    }
}
