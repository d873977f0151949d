//! Units in the store: files named by their digests, made visible by one small record.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use arrow::array::RecordBatch;
use cm3flow_schemas::unit::{SegmentName, UnitFile, UnitRecord};
use cm3flow_schemas::window::WindowRecord;
use cm3flow_schemas::{Digest, columns, layout, rows};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

use crate::error::{PipelineError, Result};
use crate::store::table::Layout;
use crate::store::{Created, Store, table};

/// Columns of [`cm3flow_schemas::document::Document`].
pub(crate) const DOCUMENT_COLUMNS: [&str; 9] = [
    columns::DOCUMENT_ID,
    columns::SAMPLE_ID,
    columns::TASK,
    columns::SPLIT,
    columns::TOKENS,
    columns::SEGMENTS,
    columns::RETRIEVED,
    columns::RETRIEVED_WANTED,
    columns::SPANS,
];

/// A file of a unit, by the name of its table in the unit's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// [`cm3flow_schemas::columns::prepared_sample`].
    Prepared,
    /// [`cm3flow_schemas::columns::refused_sample`].
    RefusedSamples,
    /// [`cm3flow_schemas::columns::settled_sample`].
    Settled,
    /// [`cm3flow_schemas::columns::bank_sample`].
    Bank,
    /// [`cm3flow_schemas::columns::document`].
    Documents,
    /// [`cm3flow_schemas::columns::refused_document`].
    RefusedDocuments,
}

impl Table {
    /// Returns the name in the unit's record.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::RefusedSamples | Self::RefusedDocuments => "refused",
            Self::Settled => "settled",
            Self::Bank => "bank",
            Self::Documents => "documents",
        }
    }

    /// Returns the segment whose units hold it.
    pub(crate) const fn segment(self) -> SegmentName {
        match self {
            Self::Prepared | Self::RefusedSamples => SegmentName::Prepare,
            Self::Settled | Self::Bank => SegmentName::Settle,
            Self::Documents | Self::RefusedDocuments => SegmentName::Compose,
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

    /// Reads the record of a committed unit; `None` if the unit does not exist yet.
    pub(crate) async fn find(&self, segment: SegmentName, key: Digest) -> Result<Option<UnitRecord>> {
        self.store.record(&layout::unit_record(segment, key), "unit record").await
    }

    /// Writes a table of an uncommitted unit and lists it in `record`.
    pub(crate) async fn put(&self, record: &mut UnitRecord, name: Table, rows: &RecordBatch) -> Result<()> {
        let layout = if name == Table::Bank { Layout::PREFIX } else { Layout::ROWS };
        self.put_file(record, name.name(), rows, layout).await
    }

    /// As [`Self::put`], by the name of the file.
    pub(crate) async fn put_file(&self, record: &mut UnitRecord, name: &str, rows: &RecordBatch, layout: Layout) -> Result<()> {
        let bytes = table::write_as(layout, rows, name)?;
        let file = UnitFile { digest: Digest::of(&bytes), bytes: bytes.len() as u64, rows: rows.num_rows() as u64 };
        self.store.create_content(&layout::unit_file(record.segment, record.key, file.digest), bytes).await?;
        record.files.insert(name.to_owned(), file);
        Ok(())
    }

    /// Makes a unit visible. If the unit already exists, the first record stays.
    pub(crate) async fn commit(&self, record: UnitRecord) -> Result<UnitRecord> {
        let path = layout::unit_record(record.segment, record.key);
        if self.store.create_record(&path, &record).await? == Created::Different {
            tracing::warn!(path, "another attempt made this unit with other contents; its files stay");
            return Ok(self.store.record(&path, "unit record").await?.unwrap_or(record));
        }
        Ok(record)
    }

    /// Reads all rows of a table of a committed unit.
    pub(crate) async fn read(&self, record: &UnitRecord, name: Table) -> Result<Vec<RecordBatch>> {
        self.read_file(record, name.name()).await
    }

    /// As [`Self::read`], by the name of the file.
    pub(crate) async fn read_file(&self, record: &UnitRecord, name: &str) -> Result<Vec<RecordBatch>> {
        let file = file_of(record, name)?;
        let path = layout::unit_file(record.segment, record.key, file.digest);
        table::read(self.store.get_checked(&path, file.digest).await?, &path)
    }

    /// Streams some columns of a table of a committed unit. Searches use it, so that they fetch only the columns that they need.
    pub(crate) async fn columns(
        &self,
        record: &UnitRecord,
        name: Table,
        names: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let file = file_of(record, name.name())?;
        table::columns_of(self.store.objects(), &layout::unit_file(record.segment, record.key, file.digest), file.bytes, names).await
    }

    /// Streams the row groups of a file of sorted ids that may hold one of `wanted`, which ascend.
    pub(crate) async fn row_groups_with(
        &self,
        record: &UnitRecord,
        name: &str,
        wanted: &[[u8; 16]],
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let file = file_of(record, name)?;
        table::row_groups_with(self.store.objects(), &layout::unit_file(record.segment, record.key, file.digest), file.bytes, wanted).await
    }

    /// Returns the number of rows of a file of a committed unit.
    pub(crate) fn rows_of(record: &UnitRecord, name: &str) -> Result<u64> {
        file_of(record, name).map(|file| file.rows)
    }
}

/// Place of a unit among committed windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UnitPlace {
    /// Index of the unit's window.
    pub window: usize,
    /// Index among the window's units of the same segment.
    pub unit: usize,
}

/// Tables of the units of committed windows.
pub(crate) struct WindowTables<'a> {
    units: UnitStore,
    windows: &'a [WindowRecord],
}

impl<'a> WindowTables<'a> {
    pub(crate) fn new(store: &Store, windows: &'a [WindowRecord]) -> Self {
        Self { units: UnitStore::new(store.clone()), windows }
    }

    /// Passes the rows of a table to `visit`, each with the place of its unit, for all units of `windows` in order, until `visit` breaks.
    /// Fetches only the columns `names`.
    pub(crate) async fn visit<T: DeserializeOwned>(
        &self,
        table: Table,
        windows: Range<usize>,
        names: &[&str],
        mut visit: impl FnMut(UnitPlace, T) -> ControlFlow<()>,
    ) -> Result<()> {
        for place in self.places(table.segment(), windows) {
            if self.visit_unit(table, place, names, |row| visit(place, row)).await?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns the range of all windows.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.windows.len()
    }

    /// Lists the places of all units of `segment` in `windows`, in order.
    pub(crate) fn places(&self, segment: SegmentName, windows: Range<usize>) -> Vec<UnitPlace> {
        let units = |window: usize| self.windows[window].keys.of(segment).len();
        windows.flat_map(|window| (0..units(window)).map(move |unit| UnitPlace { window, unit })).collect()
    }

    /// Streams some columns of a table of one unit; `None` if the window has no such unit.
    pub(crate) async fn batches(
        &self,
        table: Table,
        place: UnitPlace,
        names: &[&str],
    ) -> Result<Option<BoxStream<'static, Result<RecordBatch>>>> {
        match self.record(table.segment(), place).await? {
            Some(record) => self.units.columns(&record, table, names).await.map(Some),
            None => Ok(None),
        }
    }

    /// As [`Self::visit`], for one unit.
    pub(crate) async fn visit_unit<T: DeserializeOwned>(
        &self,
        table: Table,
        place: UnitPlace,
        names: &[&str],
        mut visit: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let Some(mut batches) = self.batches(table, place, names).await? else { return Ok(ControlFlow::Continue(())) };
        while let Some(batch) = batches.try_next().await? {
            if rows::read::<T>(&batch, names)?.into_iter().try_for_each(&mut visit).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads the rows of one unit's table that `is_wanted` admits, in order. Fetches the whole file and checks it against its digest.
    pub(crate) async fn wanted<T: DeserializeOwned>(
        &self,
        table: Table,
        place: UnitPlace,
        names: &[&str],
        is_wanted: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        if let Some(record) = self.record(table.segment(), place).await? {
            for batch in self.units.read(&record, table).await? {
                found.extend(rows::read::<T>(&batch, names)?.into_iter().filter(&is_wanted));
            }
        }
        Ok(found)
    }

    /// Counts the rows of a table over all units of `windows`, by their records.
    pub(crate) async fn row_count(&self, table: Table, windows: Range<usize>) -> Result<u64> {
        let segment = table.segment();
        let mut rows = 0;
        for window in windows {
            for unit in 0..self.windows[window].keys.of(segment).len() {
                if let Some(record) = self.record(segment, UnitPlace { window, unit }).await? {
                    rows += UnitStore::rows_of(&record, table.name())?;
                }
            }
        }
        Ok(rows)
    }

    /// Reads the record of a unit; `None` if the window has no such unit.
    async fn record(&self, segment: SegmentName, UnitPlace { window, unit }: UnitPlace) -> Result<Option<UnitRecord>> {
        let Some(&key) = self.windows[window].keys.of(segment).get(unit) else { return Ok(None) };
        let missing = || PipelineError::Damaged { location: layout::unit(segment, key), problem: "it is missing".into() };
        self.units.find(segment, key).await?.ok_or_else(missing).map(Some)
    }

    /// Reads the rows of a table over all units of `segment`, in order of windows and units, at most `limit`.
    pub(crate) async fn rows<T: DeserializeOwned>(&self, table: Table, names: &[&str], limit: usize) -> Result<Vec<T>> {
        let segment = table.segment();
        let mut found = Vec::new();
        let keys: Vec<Digest> = self.windows.iter().flat_map(|window| window.keys.of(segment)).copied().collect();
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

fn file_of<'r>(record: &'r UnitRecord, name: &str) -> Result<&'r UnitFile> {
    record.files.get(name).ok_or_else(|| PipelineError::Damaged {
        location: layout::unit(record.segment, record.key),
        problem: format!("it lists no table {name}"),
    })
}

/// Counts `reasons` as `stage.reason`.
pub(crate) fn count_reasons<'a>(reasons: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (stage, reason) in reasons {
        *counts.entry(format!("{stage}.{reason}")).or_default() += 1;
    }
    counts
}
