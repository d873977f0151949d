//! Tables as Parquet bytes. The bytes depend on rows and schema alone, not on the cuts between batches.

mod look_up;
mod ranges;

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use cm3flow_schemas::columns;
use cm3flow_schemas::rows::position;
use cm3flow_schemas::sample::Split;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

pub(crate) use look_up::row_groups_with;
use ranges::Ranges;

use crate::error::{PipelineError, Result};

/// Physical layout of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Rows of a row group, the smallest part of a column that a reader fetches.
    row_group_rows: usize,
    /// `true` for dictionaries and compression, `false` for values that do not repeat.
    compressed: bool,
}

impl Layout {
    /// Layout for tables that are read from end to end.
    pub(crate) const ROWS: Self = Self { row_group_rows: ROW_GROUP_ROWS, compressed: true };
    /// Layout for tables of wide rows, of which a reader may need the beginning only.
    pub(crate) const PREFIX: Self = Self { row_group_rows: 512, compressed: true };
    /// Layout for tables of ids for look-ups: ids do not repeat.
    pub(crate) const IDS: Self = Self { row_group_rows: ROW_GROUP_ROWS, compressed: false };
}

/// Rows of a row group by default.
const ROW_GROUP_ROWS: usize = 8192;
/// Rows of a batch on reading.
const BATCH_ROWS: usize = 256;

/// Concatenates `batches`, all of `schema`.
///
/// # Errors
/// [`PipelineError::Arrow`].
pub(crate) fn concatenated(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    concat_batches(schema, batches).map_err(|source| PipelineError::Arrow { what: "a table's batches", source })
}

/// Writes a table for reading from end to end. `what` names it in errors.
///
/// # Errors
/// [`PipelineError::Parquet`].
pub(crate) fn write(table: &RecordBatch, what: &str) -> Result<Vec<u8>> {
    write_as(Layout::ROWS, table, what)
}

/// As [`write`], in another layout.
///
/// # Errors
/// [`PipelineError::Parquet`].
pub(crate) fn write_as(layout: Layout, table: &RecordBatch, what: &str) -> Result<Vec<u8>> {
    let failed = |source| PipelineError::Parquet { location: what.to_owned(), source };
    let codec = if layout.compressed { Compression::ZSTD(ZstdLevel::try_new(3).map_err(failed)?) } else { Compression::UNCOMPRESSED };
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_dictionary_enabled(layout.compressed)
        .set_max_row_group_row_count(Some(layout.row_group_rows))
        .set_created_by("cm3flow".into())
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), table.schema(), Some(properties)).map_err(failed)?;
    writer.write(table).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// Reads a table. `location` names it in errors.
///
/// # Errors
/// [`PipelineError::Parquet`] or [`PipelineError::Arrow`].
pub(crate) fn read(bytes: Bytes, location: &str) -> Result<Vec<RecordBatch>> {
    let failed = |source| PipelineError::Parquet { location: location.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(failed)?.with_batch_size(BATCH_ROWS).build().map_err(failed)?;
    reader.collect::<Result<_, _>>().map_err(|source| PipelineError::Arrow { what: "a Parquet file", source })
}

/// Returns the number of rows of a table, from its footer. `location` names it in errors.
///
/// # Errors
/// [`PipelineError::Parquet`].
pub(crate) fn row_count(bytes: Bytes, location: &str) -> Result<u64> {
    let failed = |source| PipelineError::Parquet { location: location.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(failed)?;
    Ok(u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or_default())
}

/// Streams the columns `names` of the table of `file_bytes` at `path`. Fetches only their bytes, so it checks no digest.
///
/// # Errors
/// [`PipelineError::Parquet`]; [`PipelineError::Schema`] if a column is missing.
pub(crate) async fn columns_of(
    objects: Arc<dyn ObjectStore>,
    path: &str,
    file_bytes: u64,
    names: &[&str],
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let location = path.to_owned();
    let failed = move |source| ranges_failed(&location, source);
    let reader = Ranges { objects, path: Path::from(path), file_bytes };
    let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(failed.clone())?;
    let roots = names.iter().map(|name| position(builder.schema(), name)).collect::<Result<Vec<_>, _>>()?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let stream = builder.with_projection(mask).with_batch_size(ROW_GROUP_ROWS).build().map_err(failed.clone())?;
    Ok(stream.map_err(failed).boxed())
}

/// Tells the store's errors from the file's own, for ranges of the file at `location`.
fn ranges_failed(location: &str, source: ParquetError) -> PipelineError {
    let location = location.to_owned();
    match source {
        ParquetError::External(source) => match source.downcast() {
            Ok(source) => PipelineError::Store { action: "read ranges of", location, source: *source },
            Err(source) => PipelineError::Parquet { location, source: ParquetError::External(source) },
        },
        source => PipelineError::Parquet { location, source },
    }
}

/// Splits a batch into rows without and rows with a refusal, each in order.
///
/// # Errors
/// [`PipelineError::Schema`] if there is no such column.
pub(crate) fn split_refused(batch: &RecordBatch) -> Result<(RecordBatch, RecordBatch)> {
    let refusals = batch.column(position(&batch.schema(), columns::REFUSAL)?);
    let wanted: BooleanArray = (0..batch.num_rows()).map(|row| Some(refusals.is_null(row))).collect();
    let refused: BooleanArray = wanted.values().iter().map(|wanted| Some(!wanted)).collect();
    Ok((filtered(batch, &wanted)?, filtered(batch, &refused)?))
}

/// Returns the rows whose value in `wanted` is true.
///
/// # Errors
/// [`PipelineError::Arrow`].
pub(crate) fn filtered(batch: &RecordBatch, wanted: &BooleanArray) -> Result<RecordBatch> {
    filter_record_batch(batch, wanted).map_err(|source| PipelineError::Arrow { what: "a filtered batch", source })
}

/// Returns the rows of `split`.
///
/// # Errors
/// [`PipelineError::Schema`] without a column `split`, [`PipelineError::Arrow`].
pub(crate) fn of_split(batch: &RecordBatch, split: Split) -> Result<RecordBatch> {
    let splits = batch.column(position(&batch.schema(), columns::SPLIT)?).as_string::<i32>();
    filtered(batch, &splits.iter().map(|found| Some(found == Some(split.name()))).collect())
}

/// Returns the columns of `schema`, by name.
///
/// # Errors
/// [`PipelineError::Schema`] if one is missing.
pub(crate) fn projected(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let found = batch.schema();
    let indices = schema.fields().iter().map(|field| position(&found, field.name())).collect::<Result<Vec<_>, _>>()?;
    batch.project(&indices).map_err(|source| PipelineError::Arrow { what: "a projection", source })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn bytes_do_not_depend_on_cuts() {
        let names: StringArray = (0..1000).map(|row| Some(format!("row {row}"))).collect();
        let table =
            RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..1000)) as _), ("name", Arc::new(names) as _)])
                .expect("two columns");
        let cut = [table.slice(0, 1), table.slice(1, 600), table.slice(601, 399)];
        let written = write(&table, "test").expect("memory");
        assert_eq!(written, write(&concatenated(&table.schema(), &cut).expect("same schema"), "test").expect("memory"));
        let read = read(written.into(), "test").expect("just written");
        assert_eq!(concatenated(&table.schema(), &read).expect("same schema"), table);
    }
}
