//! Checks of a window: its record, the units of all segments, and its shards.

use cm3flow_schemas::unit::{SegmentName, UnitRecord};
use cm3flow_schemas::version::VersionManifest;
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, layout};

use super::object::Expected;
use super::{Place, Verification, Verifier, object};
use crate::catalog::units::Table;
use crate::error::Result;
use crate::execute::{WindowUnits, counted};
use crate::plan::WindowPlan;

/// Units of a window by segment; `None` for an unreadable record.
pub(super) type Found = Vec<(SegmentName, Vec<Option<UnitRecord>>)>;

impl Verifier {
    /// Reads and checks the record of a window; `None` if it is damaged.
    pub(super) async fn window_record(
        &self,
        manifest: &VersionManifest,
        index: usize,
        found: &mut Verification,
    ) -> Result<Option<WindowRecord>> {
        let digest = manifest.windows[index];
        let path = layout::window(self.catalog.dataset(), manifest.version, index as u32, digest);
        let bytes = self.store.get(&path).await?;
        found.objects += 1;
        found.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let problem = match object::record::<WindowRecord>(bytes.as_ref(), "window record") {
            Ok(record) if bytes.is_some_and(|bytes| Digest::of(&bytes) == digest) => return Ok(Some(record)),
            Ok(_) => "its bytes do not have the digest that the manifest names".to_owned(),
            Err(problem) => problem,
        };
        found.damage(path, Place::Window(index), problem);
        Ok(None)
    }

    /// Checks units and shards of a window.
    pub(super) async fn window(&mut self, index: usize, record: &WindowRecord, found: &mut Verification) -> Result<()> {
        let shard = |(shard, entry): (usize, &cm3flow_schemas::pack::ShardEntry)| Expected {
            bytes: Some(entry.bytes),
            blocks: entry.blocks.clone(),
            ..Expected::new(layout::shard(entry.digest), entry.digest, Place::Shard { window: index, shard })
        };
        let shards = record.shards.iter().enumerate().map(shard).collect();
        let units = self.window_units(index, record, found).await?;
        self.files(shards, found).await?;
        compare(index, record, &units, found);
        Ok(())
    }

    /// Checks the units of a window with their files; returns the units.
    pub(super) async fn window_units(&mut self, index: usize, record: &WindowRecord, found: &mut Verification) -> Result<Found> {
        let mut units = Found::new();
        for segment in SegmentName::ALL {
            let mut of_segment = Vec::new();
            for key in record.keys.of(segment) {
                // A pack unit may be gone after withdrawals, since its packs are no longer the window's.
                let may_lack = segment == SegmentName::Pack && (record.samples.withdrawn > 0 || record.documents.withdrawn > 0);
                of_segment.push(self.unit(segment, *key, index, may_lack, found).await?);
            }
            units.push((segment, of_segment));
        }
        let files = units.iter().flat_map(|(_, units)| units).flatten().flat_map(|unit| files_of(index, unit)).collect();
        self.files(files, found).await?;
        Ok(units)
    }

    /// Reads and checks the record of a unit; `None` if it is damaged.
    async fn unit(
        &self,
        segment: SegmentName,
        key: Digest,
        window: usize,
        may_lack: bool,
        found: &mut Verification,
    ) -> Result<Option<UnitRecord>> {
        let path = layout::unit_record(segment, key);
        let bytes = self.store.get(&path).await?;
        if bytes.is_none() && may_lack {
            return Ok(None);
        }
        found.objects += 1;
        found.bytes += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let record = object::record::<UnitRecord>(bytes.as_ref(), "unit record").and_then(|record| {
            if (record.segment, record.key) != (segment, key) {
                return Err(format!("it is the record of {} unit {}", record.segment.name(), record.key.short()));
            }
            match unbalanced(&record) {
                None => Ok(record),
                Some(problem) => Err(problem),
            }
        });
        match record {
            Ok(record) => Ok(Some(record)),
            Err(problem) => {
                found.damage(path, Place::Unit { window, segment, key }, problem);
                Ok(None)
            }
        }
    }
}

/// Describes a contradiction within the record of a unit: in its ledgers, or in the rows that `prepare` kept.
fn unbalanced(unit: &UnitRecord) -> Option<String> {
    let samples = unit.samples.as_ref().and_then(|samples| samples.check("the unit").err());
    let documents = unit.documents.as_ref().and_then(|documents| documents.check("the unit").err());
    if let Some(error) = samples.or(documents) {
        return Some(error.to_string());
    }
    let kept = unit.samples.as_ref().filter(|_| unit.segment == SegmentName::Prepare)?.kept;
    let rows = unit.files.get(Table::Prepared.name())?.rows;
    (kept != rows).then(|| format!("it says that {kept} samples were kept, and lists {rows}"))
}

fn files_of(window: usize, unit: &UnitRecord) -> Vec<Expected> {
    let place = Place::Unit { window, segment: unit.segment, key: unit.key };
    let file = |file: &cm3flow_schemas::unit::UnitFile| Expected {
        bytes: Some(file.bytes),
        rows: Some(file.rows),
        ..Expected::new(layout::unit_file(unit.segment, unit.key, file.digest), file.digest, place.clone())
    };
    unit.files.values().map(file).collect()
}

/// Compares the record of a window, which has the digest in the manifest, with the record that its units give.
fn compare(index: usize, record: &WindowRecord, units: &Found, found: &mut Verification) {
    let whole = |segment: SegmentName| -> Option<Vec<UnitRecord>> {
        units.iter().find(|(found, _)| *found == segment)?.1.iter().cloned().collect()
    };
    let [Some(prepared), Some(settled), Some(composed), Some(packed)] = SegmentName::ALL.map(whole) else { return };
    let Some(settled) = settled.first() else { return };
    let plan = WindowPlan::of_record(record);
    let made = counted(index as u32, &plan, &WindowUnits { prepared: &prepared, settled, composed: &composed, packed: &packed });
    for (segment, units) in [
        (SegmentName::Prepare, &prepared[..]),
        (SegmentName::Settle, std::slice::from_ref(settled)),
        (SegmentName::Compose, &composed[..]),
        (SegmentName::Pack, &packed[..]),
    ] {
        if agrees(segment, record, &made) {
            continue;
        }
        for unit in units {
            let path = layout::unit_record(segment, unit.key);
            let problem = format!("its counts, with those of other {} units, are not those of window {index}", segment.name());
            found.damage(path, Place::Unit { window: index, segment, key: unit.key }, problem);
        }
    }
}

/// Checks whether the part of a window's record that comes from `segment` follows from the units. After later withdrawals, packs and
/// remaining counts differ from the units', so it checks less.
fn agrees(segment: SegmentName, record: &WindowRecord, made: &WindowRecord) -> bool {
    let is_rewritten = is_rewritten(record, made);
    match segment {
        SegmentName::Prepare => (record.samples.input, &record.samples.refused) == (made.samples.input, &made.samples.refused),
        SegmentName::Settle if is_rewritten => record.samples.duplicate <= made.samples.duplicate,
        SegmentName::Settle => record.samples == made.samples && record.licenses == made.licenses,
        SegmentName::Compose if is_rewritten => record.documents.refused == made.documents.refused,
        SegmentName::Compose => (record.documents.built, &record.documents.refused) == (made.documents.built, &made.documents.refused),
        SegmentName::Pack if is_rewritten => true,
        SegmentName::Pack => record.shards == made.shards && record.statistics == made.statistics,
    }
}

/// Checks whether samples, or documents of other samples, were withdrawn from a window after it was packed.
const fn is_rewritten(record: &WindowRecord, made: &WindowRecord) -> bool {
    record.samples.withdrawn > made.samples.withdrawn || record.documents.withdrawn > made.documents.withdrawn
}
