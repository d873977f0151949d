//! Units in the store: files named by their digests, made visible by one small record.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use cm3flow_schemas::unit::{SegmentName, UnitFile, UnitRecord};
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, rows};
use serde::de::DeserializeOwned;

use super::unit_path;
use crate::error::{PipelineError, Result};
use crate::store::{Created, Store};
use crate::table;

/// What a file of a unit holds: its name in the unit's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// [`cm3flow_schemas::columns::prepared_sample`].
    Prepared,
    /// [`cm3flow_schemas::columns::refused_sample`], or `refused_document` in `compose`.
    Refused,
    /// [`cm3flow_schemas::columns::settled_sample`].
    Settled,
    /// [`cm3flow_schemas::columns::bank_sample`].
    Bank,
    /// [`cm3flow_schemas::columns::document`].
    Documents,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Refused => "refused",
            Self::Settled => "settled",
            Self::Bank => "bank",
            Self::Documents => "documents",
        }
    }
}

/// Reads and commits units.
#[derive(Debug, Clone)]
pub(crate) struct UnitStore {
    store: Store,
}

impl UnitStore {
    pub(crate) const fn new(store: Store) -> Self {
        Self { store }
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// The record of a committed unit; `None` if it has yet to be made.
    pub(crate) async fn find(&self, segment: SegmentName, key: Digest) -> Result<Option<UnitRecord>> {
        self.store.record(&format!("{}/unit.json", unit_path(segment, key)), "unit record").await
    }

    /// Writes a table of a unit that is being made and lists it in `record`.
    pub(crate) async fn put(&self, record: &mut UnitRecord, name: Table, rows: &RecordBatch) -> Result<()> {
        let bytes = table::write(rows, name.name())?;
        let file = UnitFile { digest: Digest::of(&bytes), bytes: bytes.len() as u64, rows: rows.num_rows() as u64 };
        self.store.create_content(&file_path(record, &file), bytes).await?;
        record.files.insert(name.name().to_owned(), file);
        Ok(())
    }

    /// Makes a unit visible. If it is there already, the first one stays.
    pub(crate) async fn commit(&self, record: UnitRecord) -> Result<UnitRecord> {
        let path = format!("{}/unit.json", unit_path(record.segment, record.key));
        if self.store.create_record(&path, &record).await? == Created::Different {
            tracing::warn!(path, "another attempt made this unit with other contents; its files stay");
            return Ok(self.store.record(&path, "unit record").await?.unwrap_or(record));
        }
        Ok(record)
    }

    /// Rows of a table of a committed unit.
    pub(crate) async fn read(&self, record: &UnitRecord, name: Table) -> Result<Vec<RecordBatch>> {
        let missing = || PipelineError::Damaged {
            location: unit_path(record.segment, record.key),
            problem: format!("it lists no table {}", name.name()),
        };
        let file = record.files.get(name.name()).ok_or_else(missing)?;
        let path = file_path(record, file);
        table::read(self.store.get_checked(&path, file.digest).await?, &path)
    }
}

/// The units of committed windows, for what reads them as tables.
pub(crate) struct WindowTables<'a> {
    units: UnitStore,
    windows: &'a [WindowRecord],
}

impl<'a> WindowTables<'a> {
    pub(crate) fn new(store: &Store, windows: &'a [WindowRecord]) -> Self {
        Self { units: UnitStore::new(store.clone()), windows }
    }

    /// Rows of a table over all units of `segment`, in order of windows and units, at most `limit`.
    pub(crate) async fn rows<T: DeserializeOwned>(
        &self,
        segment: SegmentName,
        table: Table,
        names: &[&str],
        limit: usize,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        let keys: Vec<Digest> = self.windows.iter().filter_map(|window| window.keys.get(segment.name())).flatten().copied().collect();
        for key in keys {
            let Some(record) = self.units.find(segment, key).await? else { continue };
            for batch in self.units.read(&record, table).await? {
                found.extend(rows::read::<T>(&batch, names)?);
            }
            if found.len() >= limit {
                found.truncate(limit);
                break;
            }
        }
        Ok(found)
    }
}

fn file_path(record: &UnitRecord, file: &UnitFile) -> String {
    format!("{}/{}.parquet", unit_path(record.segment, record.key), file.digest)
}

/// Counts `reasons` as `stage.reason`.
pub(crate) fn count_reasons<'a>(reasons: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (stage, reason) in reasons {
        *counts.entry(format!("{stage}.{reason}")).or_default() += 1;
    }
    counts
}
