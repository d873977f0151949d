//! The plan: a run's windows, their units, and the key of every unit, all known before any work begins.

pub(crate) mod estimate;
mod manifest;
mod record;
mod replay;

use std::collections::BTreeMap;

use cm3flow_schemas::Digest;
use cm3flow_schemas::unit::SegmentName;
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{QuarantinedUnit, SourceUnit, WindowKeys, WindowRecord};
use cm3flow_stages::ingest::PlannedUnit;
use futures::FutureExt;

pub(crate) use manifest::config_of_version;
pub use manifest::output_config;
pub(crate) use record::{RunPlan, StoredPlan};
pub use replay::ReplayFilter;
use replay::{Present, Replay};

use crate::artefact::Artefacts;
use crate::catalog::Published;
use crate::catalog::readings::Settled;
use crate::catalog::refused::{PreparedUnit, RefusedFilter, RefusedSample, of_unit};
use crate::catalog::units::UnitStore;
use crate::config::{Config, Job};
use crate::error::Result;
use crate::events::{Event, UnitsPlanned};
use crate::segment::KeyMaker;
use crate::source::scan::{Drift, Scan, done_units};
use crate::store::Store;

impl WindowPlan {
    /// Makes the plan of a window from its record, so that all of it is made again.
    #[must_use]
    pub fn of_record(record: &WindowRecord) -> Self {
        let WindowRecord { units, keys, quarantined, blocklist, .. } = record.clone();
        Self { units, sources: Vec::new(), keys, blocklist, quarantined, committed: None }
    }

    /// Plans a window of `units` under this configuration, after the window with the settle key `settled_before`.
    #[must_use]
    pub fn of_units(
        config: &Config,
        artefacts: &Artefacts,
        settled_before: Option<Digest>,
        units: Vec<SourceUnit>,
        blocklist: Option<Digest>,
    ) -> Self {
        let keys = KeyMaker { config, artefacts }.window(settled_before, &units, blocklist);
        Self { units, sources: Vec::new(), keys, blocklist, quarantined: Vec::new(), committed: None }
    }
}

/// A window to be made, or one of the base version.
#[derive(Debug)]
pub struct WindowPlan {
    /// Source units, in order.
    pub units: Vec<SourceUnit>,
    /// Places that the units are read from; empty for a window of the base version.
    pub sources: Vec<PlannedUnit>,
    /// Keys of all units made of them.
    pub keys: WindowKeys,
    /// Digest of the blocked ids for this window.
    pub blocklist: Option<Digest>,
    /// Units of the window that could not be made; `units` lacks them.
    pub quarantined: Vec<QuarantinedUnit>,
    /// Committed record of a window of the base version.
    pub committed: Option<WindowRecord>,
}

/// Work of a run.
#[derive(Debug)]
pub struct Plan {
    /// Number of the resulting version.
    pub version: u32,
    /// Version whose windows the plan keeps.
    pub base: Option<u32>,
    /// `true` if the latest version is already the result.
    pub is_published: bool,
    /// Digest of the latest version's blocked ids, which apply to new windows.
    pub blocklist: Option<Digest>,
    /// Windows, those of the base first.
    pub windows: Vec<WindowPlan>,
    /// Difference between the sources and the content of the base.
    pub drift: Drift,
    /// First segment with another key than in the latest version, if that is why the plan has no base.
    pub made_anew_from: Option<SegmentName>,
    /// Number of refused rows that are tried again.
    pub replayed_samples: u64,
}

impl Plan {
    /// Plans a run over `scan`. The latest version is the base if this configuration would make the same windows of its units.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn make(job: &Job, artefacts: &Artefacts, latest: Option<&Published>, scan: &Scan) -> Result<Self> {
        Self::make_replaying(job, artefacts, latest, scan, None).await
    }

    /// As [`Self::make`], plus refused rows of the latest version to try again.
    ///
    /// # Errors
    /// Those of the store or a source.
    pub async fn make_replaying(
        job: &Job,
        artefacts: &Artefacts,
        latest: Option<&Published>,
        scan: &Scan,
        replay: Option<&ReplayFilter>,
    ) -> Result<Self> {
        let config = &*job.config;
        let maker = KeyMaker { config, artefacts };
        let (mut windows, made_anew_from) = latest.map_or_else(Default::default, |latest| rebase(&maker, latest.windows.clone()));
        let latest = latest.map(|latest| &latest.manifest);
        let base = latest.filter(|_| !windows.is_empty()).map(|manifest| manifest.version);
        let base_windows = windows.len();
        let committed = || windows.iter().filter_map(|window: &WindowPlan| window.committed.as_ref());
        let settled = Settled::new(done_units(committed()));
        let drift = scan.drift(settled.without_mended(done_units(committed()), &scan.units));
        let mut fresh = scan.fresh(done_units(committed()));
        fresh.retain(|planned| !settled.holds(&planned.unit));
        let replayed = match replay {
            Some(asked) => {
                let windows: Vec<WindowRecord> = committed().cloned().collect();
                // Boxed, since the compiler cannot prove through such deep borrows that the run's future is `Send`.
                Replay::plan(job, asked, &windows, Present { all: &scan.units, fresh: &fresh }).boxed().await?
            }
            None => Replay::default(),
        };
        let replayed_samples = replayed.rows();
        fresh.retain(|planned| !replayed.instead_of.contains(&planned.unit));
        fresh.extend(replayed.units);
        let blocklist = latest.and_then(|manifest| manifest.blocklist);
        let mut settled_before = windows.last().map(|window: &WindowPlan| window.keys.settle());
        for sources in fresh.chunks(config.window.units as usize) {
            let units: Vec<SourceUnit> = sources.iter().map(|planned| planned.unit.clone()).collect();
            let keys = maker.window(settled_before, &units, blocklist);
            settled_before = Some(keys.settle());
            windows.push(WindowPlan { units, sources: sources.to_vec(), keys, blocklist, quarantined: Vec::new(), committed: None });
        }
        let version = latest.map_or(1, |manifest| manifest.version + 1);
        Ok(Self {
            version,
            base,
            is_published: base.is_some() && windows.len() == base_windows,
            blocklist,
            windows,
            drift,
            made_anew_from,
            replayed_samples,
        })
    }

    /// Makes the plan of a published version, to make all of `windows` again.
    #[must_use]
    pub fn of_version(manifest: &VersionManifest, windows: Vec<WindowPlan>) -> Self {
        Self {
            version: manifest.version,
            base: manifest.base,
            is_published: false,
            blocklist: manifest.blocklist,
            windows,
            drift: Drift::default(),
            made_anew_from: None,
            replayed_samples: 0,
        }
    }

    /// Returns the first segment for which this configuration makes other units than those of `records`, if any.
    #[must_use]
    pub fn differs_from(config: &Config, artefacts: &Artefacts, records: &[WindowRecord]) -> Option<SegmentName> {
        rebase(&KeyMaker { config, artefacts }, records.to_vec()).1
    }

    /// Returns the number of the version that holds the plan's result.
    #[must_use]
    pub fn resulting_version(&self) -> u32 {
        self.base.filter(|_| self.is_published).unwrap_or(self.version)
    }
}

/// Returns the windows of the latest version if this configuration makes the same of their units; else none, and the first segment
/// that differs.
fn rebase(maker: &KeyMaker<'_>, records: Vec<WindowRecord>) -> (Vec<WindowPlan>, Option<SegmentName>) {
    let mut windows = Vec::new();
    let mut settled_before = None;
    for record in records {
        let keys = maker.window(settled_before, &record.units, record.blocklist);
        let differs = |segment: &SegmentName| keys.of(*segment) != record.keys.of(*segment);
        if let Some(segment) = SegmentName::ALL.into_iter().find(differs) {
            return (Vec::new(), Some(segment));
        }
        settled_before = Some(keys.settle());
        windows.push(WindowPlan {
            units: record.units.clone(),
            sources: Vec::new(),
            keys,
            blocklist: record.blocklist,
            quarantined: record.quarantined.clone(),
            committed: Some(record),
        });
    }
    (windows, None)
}

impl Plan {
    /// Lists refused samples of units in uncommitted windows that an earlier, stopped run prepared, at most `limit`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn refused_before(&self, store: &Store, filter: &RefusedFilter, limit: usize) -> Result<Vec<RefusedSample>> {
        let units = UnitStore::new(store.clone());
        let mut found = Vec::new();
        let is_meant = |(index, window): &(usize, &WindowPlan)| window.committed.is_none() && filter.has_window(*index as u32);
        for (index, window) in self.windows.iter().enumerate().filter(is_meant) {
            for (unit, &key) in window.units.iter().zip(&window.keys.prepare) {
                found.extend(of_unit(&units, PreparedUnit { window: index as u32, unit, key }, filter).await?.unwrap_or_default());
                if found.len() >= limit {
                    found.truncate(limit);
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}

impl Event {
    /// Makes the event that announces `plan`.
    #[must_use]
    pub fn plan_made(plan: &Plan) -> Self {
        let mut units: BTreeMap<SegmentName, UnitsPlanned> = BTreeMap::new();
        let mut samples = 0;
        for window in &plan.windows {
            let keys = &window.keys;
            for segment in SegmentName::ALL {
                let planned = units.entry(segment).or_default();
                *(if window.committed.is_some() { &mut planned.there } else { &mut planned.to_make }) += keys.of(segment).len() as u64;
            }
            if window.committed.is_none() {
                samples += window.units.iter().map(|unit| unit.rows).sum::<u64>();
            }
        }
        Self::PlanMade {
            version: plan.resulting_version(),
            base: plan.base,
            is_published: plan.is_published,
            windows: plan.windows.len() as u64,
            samples,
            removed_samples: plan.drift.removed_rows(),
            changed_samples: plan.drift.changed_rows(),
            replayed_samples: plan.replayed_samples,
            units,
        }
    }
}
