//! Repair of units, shards and window records: makes each damaged window again in a scratch store, and takes equal results over.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::{SourceUnit, WindowRecord};
use cm3flow_schemas::{Digest, columns, layout, rows};
use serde::Deserialize;

use super::Work;
use crate::artefact;
use crate::artefact::Artefacts;
use crate::catalog::window_record;
use crate::error::{PipelineError, Result};
use crate::execute::{Remake, Sources};
use crate::plan::{Plan, WindowPlan};
use crate::store::scratch::Scratch;
use crate::store::{record_bytes, table};
use crate::versions::verify::{Damage, Place, Verification, Verifier};
use crate::versions::withdraw::redo;

/// A row of [`columns::lineage`].
#[derive(Debug, Clone, Deserialize)]
struct LineageRow {
    window: u32,
    source: String,
    file: String,
    digest: Digest,
    first_row: u64,
    rows: u64,
    #[serde(default)]
    only: Vec<u64>,
    prepare: Digest,
    settle: Digest,
    compose: Digest,
}

/// Returns the index of the window that a damaged object belongs to.
const fn window_of(place: &Place) -> Option<usize> {
    match place {
        Place::Window(window) | Place::Unit { window, .. } | Place::Shard { window, .. } => Some(*window),
        _ => None,
    }
}

impl Work {
    /// Makes damaged objects of the windows again. Adds healed records to `windows`.
    pub(super) async fn units(
        &mut self,
        manifest: &VersionManifest,
        windows: &mut [Option<WindowRecord>],
        damaged: &[Damage],
    ) -> Result<()> {
        // Records restored from a copy are whole by now.
        let is_open = |damage: &&Damage| !matches!(damage.place, Place::Window(window) if windows[window].is_some());
        let mut damaged: Vec<Damage> =
            damaged.iter().filter(|damage| window_of(&damage.place).is_some()).filter(is_open).cloned().collect();
        let wanted: BTreeSet<usize> = damaged.iter().filter_map(|damage| window_of(&damage.place)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let artefacts = match artefact::of_version(&self.job, manifest).await {
            Ok(artefacts) => artefacts,
            Err(error @ PipelineError::Store { .. }) => return Err(error),
            Err(error) => {
                damaged.iter().for_each(|damage| self.leave(&damage.path, error.to_string()));
                return Ok(());
            }
        };
        let plans = self.plans(manifest, windows, &artefacts).await?;
        let planned = plans.len();
        let behind_records = self.behind_lost_records(&plans, &damaged).await?;
        damaged.extend(behind_records);
        let scratch = self.scratch(manifest, &plans, &damaged)?;
        let mut again = self.again(manifest, plans, artefacts, &scratch)?;
        for index in 0..planned {
            if !wanted.contains(&index) {
                again.skip();
                continue;
            }
            self.job.progress.say(&format!("making again what is damaged of window {index}"));
            let of_window: Vec<&Damage> = damaged.iter().filter(|damage| window_of(&damage.place) == Some(index)).collect();
            let made = async { redo(&scratch.store, manifest, again.window().await?).await };
            match made.await {
                Ok(record) => self.take_over(manifest, record, windows, &of_window, &scratch).await?,
                Err(error) => of_window.iter().for_each(|damage| self.leave(&damage.path, error.to_string())),
            }
        }
        let lost =
            format!("the record of window {planned} is lost, and neither the lineage nor this configuration tells what it was made of");
        let behind = damaged.iter().filter(|damage| window_of(&damage.place) >= Some(planned));
        behind.for_each(|damage| self.leave(&damage.path, lost.as_str()));
        Ok(())
    }

    /// Returns the damage in windows with lost records, which verification could not look into. Counts all their shards as damaged.
    async fn behind_lost_records(&self, plans: &[WindowPlan], damaged: &[Damage]) -> Result<Vec<Damage>> {
        let mut verifier = Verifier::new(&self.job.store, self.job.dataset());
        let mut found = Verification { version: self.version, objects: 0, bytes: 0, damaged: Vec::new() };
        for damage in damaged {
            let Place::Window(window) = damage.place else { continue };
            let Some(plan) = plans.get(window) else { continue };
            let record = window_record(window as u32, plan.keys.clone());
            let units = verifier.window_units(window, &record, &mut found).await?;
            let shards = units.iter().flat_map(|(_, units)| units).flatten().flat_map(|unit| &unit.shards);
            for (shard, entry) in shards.enumerate() {
                found.damage(layout::shard(entry.digest), Place::Shard { window, shard }, "the record of its window is lost");
            }
        }
        Ok(found.damaged)
    }

    fn again(&self, manifest: &VersionManifest, plans: Vec<WindowPlan>, artefacts: Artefacts, scratch: &Scratch) -> Result<Remake> {
        let before = plans.iter().flat_map(|plan| plan.units.clone()).collect();
        let plan = Plan::of_version(manifest, plans);
        let sources = Sources::new(self.job.clone(), before);
        Remake::try_new(self.job.on(scratch.store.clone()), artefacts, plan, manifest.numerics.clone(), sources)
    }

    /// Makes a scratch store that hides the damaged objects, and the version's window records, since the new ones are compared with the
    /// manifest. Hides the pack units of a window with a damaged shard, since shards are made with their unit. Hides them also in a window
    /// with later withdrawals, since those are repeated on packs without holes.
    fn scratch(&self, manifest: &VersionManifest, plans: &[WindowPlan], damaged: &[Damage]) -> Result<Scratch> {
        let windows = format!("{}/", layout::windows(self.job.dataset(), self.version));
        let mut hidden = HashSet::new();
        for damage in damaged {
            match &damage.place {
                Place::Unit { segment, key, .. } => drop(hidden.insert(layout::unit(*segment, *key))),
                Place::Shard { .. } => drop(hidden.insert(damage.path.clone())),
                _ => {}
            }
            let plan = window_of(&damage.place).and_then(|window| plans.get(window));
            let is_shard = matches!(damage.place, Place::Shard { .. });
            if let Some(plan) = plan.filter(|plan| is_shard || plan.blocklist != manifest.blocklist) {
                hidden.extend(plan.keys.pack.iter().map(|key| layout::unit(SegmentName::Pack, *key)));
            }
        }
        let is_hidden = move |path: &str| {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            path.starts_with(&windows) || hidden.contains(path) || hidden.contains(folder)
        };
        Scratch::over(&self.job.store, Arc::new(is_hidden))
    }

    /// Returns the plans of all windows, up to the first one that is unknown.
    async fn plans(&self, manifest: &VersionManifest, windows: &[Option<WindowRecord>], artefacts: &Artefacts) -> Result<Vec<WindowPlan>> {
        let mut plans: Vec<WindowPlan> = Vec::with_capacity(windows.len());
        for (index, record) in windows.iter().enumerate() {
            let plan = match record {
                Some(record) => Some(WindowPlan::of_record(record)),
                None => {
                    let before = plans.last().map(|plan| plan.keys.settle());
                    self.plan_of_lineage(manifest, index as u32, before, artefacts).await?
                }
            };
            let Some(plan) = plan else { break };
            plans.push(plan);
        }
        Ok(plans)
    }

    /// Plans a window whose record is lost, if this configuration makes the units that the lineage names.
    async fn plan_of_lineage(
        &self,
        manifest: &VersionManifest,
        window: u32,
        settled_before: Option<Digest>,
        artefacts: &Artefacts,
    ) -> Result<Option<WindowPlan>> {
        let path = layout::table(self.catalog.dataset(), manifest.lineage);
        let Ok(bytes) = self.job.store.get_checked(&path, manifest.lineage).await else { return Ok(None) };
        let names = ["window", columns::SOURCE, "file", "digest", "first_row", "rows", "prepare", "settle", "compose"];
        let with_only = [&names[..], &[columns::ONLY]].concat();
        let mut found: Vec<LineageRow> = Vec::new();
        for batch in table::read(bytes, &path)? {
            let names = if batch.column_by_name(columns::ONLY).is_some() { &with_only } else { &names[..] };
            found.extend(rows::read::<LineageRow>(&batch, names)?.into_iter().filter(|row| row.window == window));
        }
        let unit = |row: &LineageRow| SourceUnit {
            source: row.source.clone(),
            file: row.file.clone(),
            digest: row.digest,
            first_row: row.first_row,
            rows: row.rows,
            only: row.only.clone(),
        };
        for blocklist in [manifest.blocklist, None] {
            let units = found.iter().map(unit).collect();
            let plan = WindowPlan::of_units(&self.job.config, artefacts, settled_before, units, blocklist);
            let keys = plan.keys.prepare.iter().zip(&plan.keys.compose).map(|(prepare, compose)| (*prepare, plan.keys.settle(), *compose));
            if keys.eq(found.iter().map(|row| (row.prepare, row.settle, row.compose))) {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    /// Puts the objects of a window that was made again into the store, if they are equal.
    async fn take_over(
        &mut self,
        manifest: &VersionManifest,
        made: WindowRecord,
        windows: &mut [Option<WindowRecord>],
        damaged: &[&Damage],
        scratch: &Scratch,
    ) -> Result<()> {
        let (index, bytes) = (made.window as usize, record_bytes(&made));
        let is_equal = Digest::of(&bytes) == manifest.windows[index];
        for damage in damaged {
            let path = &damage.path;
            match &damage.place {
                _ if !is_equal => self.leave(path, format!("made again, window {index} is not what its record says")),
                Place::Window(_) => {
                    self.replace(path, bytes.clone()).await?;
                    windows[index] = Some(made.clone());
                }
                Place::Unit { segment, key, .. } => {
                    let is_taken = self.take_unit(*segment, *key, scratch).await?;
                    if !is_taken {
                        self.leave(path, "made again, it has other bytes than those that are recorded");
                    }
                }
                Place::Shard { .. } if self.is_whole_shard(path).await? => {}
                Place::Shard { .. } => match scratch.written.get(path).await? {
                    Some(bytes) => self.replace(path, bytes).await?,
                    None => self.leave(path, "made again, it has other bytes than those that are recorded"),
                },
                _ => {}
            }
        }
        // A unit of `pack` makes its shards too, so missing ones are at hand.
        for shard in &made.shards {
            let path = layout::shard(shard.digest);
            if self.job.store.get(&path).await?.is_none()
                && let Some(bytes) = scratch.written.get(&path).await?
            {
                self.replace(&path, bytes).await?;
            }
        }
        Ok(())
    }

    async fn is_whole_shard(&self, path: &str) -> Result<bool> {
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".arrow")?.parse::<Digest>().ok());
        Ok(self.job.store.get(path).await?.is_some_and(|bytes| Some(Digest::of(&bytes)) == name))
    }

    /// Puts a unit that was made again into the store, unless its recorded facts contradict; returns whether it did.
    async fn take_unit(&self, segment: SegmentName, key: Digest, scratch: &Scratch) -> Result<bool> {
        let folder = layout::unit(segment, key);
        let record_path = format!("{folder}/unit.json");
        let Some(made) = scratch.written.record::<UnitRecord>(&record_path, "unit record").await? else { return Ok(false) };
        let recorded = match self.job.store.record::<UnitRecord>(&record_path, "unit record").await {
            Err(PipelineError::Record { .. }) => None,
            recorded => recorded?,
        };
        let whole = self.whole_files(&folder).await?;
        if !is_same_unit(&made, recorded.as_ref(), &whole) {
            return Ok(false);
        }
        for file in made.files.values().filter(|file| !whole.contains(&file.digest)) {
            let path = layout::unit_file(made.segment, made.key, file.digest);
            if let Some(bytes) = scratch.written.get(&path).await? {
                self.replace(&path, bytes).await?;
            }
        }
        self.replace(&record_path, record_bytes(&made)).await?;
        Ok(true)
    }

    /// Returns the digests of the whole files in the folder of a unit: those with the digest in their name.
    async fn whole_files(&self, folder: &str) -> Result<HashSet<Digest>> {
        let mut whole = HashSet::new();
        for name in self.job.store.names(folder).await? {
            let Some(digest) = name.split('.').next().and_then(|digest| digest.parse::<Digest>().ok()) else { continue };
            if self.job.store.get(&format!("{folder}/{name}")).await?.is_some_and(|bytes| Digest::of(&bytes) == digest) {
                whole.insert(digest);
            }
        }
        Ok(whole)
    }
}

/// Checks whether a unit that was made again is the recorded one: each of its files still exists whole, or its record lists it. If the
/// record is lost too, all whole files in its folder must be its own.
fn is_same_unit(made: &UnitRecord, recorded: Option<&UnitRecord>, whole: &HashSet<Digest>) -> bool {
    let made: HashSet<Digest> = made.files.values().map(|file| file.digest).collect();
    match recorded {
        Some(recorded) => made.iter().all(|file| whole.contains(file) || recorded.files.values().any(|listed| listed.digest == *file)),
        None => whole.is_subset(&made),
    }
}

#[cfg(test)]
mod tests {
    use cm3flow_schemas::unit::UnitFile;

    use super::*;

    fn unit(files: &[u8]) -> UnitRecord {
        let mut record = UnitRecord::new(SegmentName::Prepare, Digest([0; 32]));
        let file = |byte: &u8| (byte.to_string(), UnitFile { digest: Digest([*byte; 32]), bytes: 1, rows: 1 });
        record.files = files.iter().map(file).collect();
        record
    }

    #[test]
    fn a_unit_with_other_files_is_not_taken_for_the_one_that_was_there() {
        let whole = |files: &[u8]| files.iter().map(|byte| Digest([*byte; 32])).collect::<HashSet<_>>();
        let made = unit(&[1, 2]);
        assert!(is_same_unit(&made, Some(&unit(&[1, 2])), &whole(&[1])), "a file is lost");
        assert!(is_same_unit(&made, Some(&unit(&[1, 9])), &whole(&[1, 2])), "the record names a file wrongly");
        assert!(is_same_unit(&made, None, &whole(&[1, 2])) && is_same_unit(&made, None, &whole(&[])), "the record is lost");
        assert!(!is_same_unit(&made, Some(&unit(&[1, 3])), &whole(&[1])), "other numerics make other bytes");
        assert!(!is_same_unit(&made, None, &whole(&[1, 3])), "a file is left that it does not have");
    }
}
