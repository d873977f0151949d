//! Conversion between columns and Rust structs: a stage reads the columns that it needs and writes those that it adds.
//!
//! Columns that a stage does not touch pass by reference count.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::SchemaError;

fn names(fields: &[FieldRef]) -> String {
    fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns the index of `column`.
///
/// # Errors
/// [`SchemaError::MissingColumn`].
pub fn position(schema: &Schema, column: &str) -> Result<usize, SchemaError> {
    schema.index_of(column).map_err(|_| SchemaError::MissingColumn { column: column.to_owned(), present: names(schema.fields()) })
}

/// Checks that `schema` has every field of `wanted` with its type.
///
/// # Errors
/// [`SchemaError::MissingColumn`] or [`SchemaError::WrongType`] for the first that differs.
pub fn require(schema: &Schema, wanted: &[FieldRef]) -> Result<(), SchemaError> {
    for field in wanted {
        let found = schema.field(position(schema, field.name())?).data_type();
        if found != field.data_type() {
            return Err(SchemaError::WrongType {
                column: field.name().clone(),
                expected: field.data_type().to_string(),
                found: found.to_string(),
            });
        }
    }
    Ok(())
}

/// Reads `columns` of every row into a struct whose fields have the columns' names. Keeps order and number of rows.
///
/// # Errors
/// [`SchemaError`] for a missing column or a value that the struct cannot hold.
pub fn read<T: DeserializeOwned>(batch: &RecordBatch, columns: &[&str]) -> Result<Vec<T>, SchemaError> {
    let schema = batch.schema();
    let indices = columns.iter().map(|column| position(&schema, column)).collect::<Result<Vec<_>, _>>()?;
    let chosen = batch.project(&indices)?;
    serde_arrow::from_record_batch(&chosen).map_err(|source| SchemaError::Rows { columns: columns.join(", "), source })
}

/// Reads as [`read`], with those of the columns `optional` that the batch has. The struct has a default for the others.
///
/// # Errors
/// As [`read`].
pub fn read_with<T: DeserializeOwned>(batch: &RecordBatch, columns: &[&str], optional: &[&str]) -> Result<Vec<T>, SchemaError> {
    let schema = batch.schema();
    let there = optional.iter().copied().filter(|column| schema.index_of(column).is_ok());
    read(batch, &columns.iter().copied().chain(there).collect::<Vec<_>>())
}

/// Builds a batch of `schema` from rows whose struct fields have the columns' names.
///
/// # Errors
/// [`SchemaError::Rows`] if the struct does not fit the schema.
pub fn write<T: Serialize>(schema: &SchemaRef, rows: &[T]) -> Result<RecordBatch, SchemaError> {
    let fields = schema.fields();
    if fields.is_empty() {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        return Ok(RecordBatch::try_new_with_options(Arc::clone(schema), vec![], &options)?);
    }
    let arrays = serde_arrow::to_arrow(fields, rows).map_err(|source| SchemaError::Rows { columns: names(fields), source })?;
    Ok(RecordBatch::try_new(Arc::clone(schema), arrays)?)
}

/// Change of the columns by a transform: some are dropped, some added or replaced.
#[derive(Debug, Clone)]
pub struct ColumnChange {
    dropped: Vec<&'static str>,
    added: SchemaRef,
}

impl ColumnChange {
    /// Drops the columns `dropped` and appends `added`. An added column that the batch already has is replaced in its place.
    #[must_use]
    pub fn new(dropped: &[&'static str], added: Vec<FieldRef>) -> Self {
        Self { dropped: dropped.to_vec(), added: Arc::new(Schema::new(added)) }
    }

    /// Returns the schema after the change.
    #[must_use]
    pub fn output_schema(&self, input: &Schema) -> SchemaRef {
        let kept = input.fields().iter().filter(|field| !self.dropped.contains(&field.name().as_str()));
        let mut fields: Vec<FieldRef> = kept
            .map(|field| self.added.field_with_name(field.name()).map_or_else(|_| Arc::clone(field), |new| Arc::new(new.clone())))
            .collect();
        fields.extend(self.added.fields().iter().filter(|field| input.index_of(field.name()).is_err()).cloned());
        Arc::new(Schema::new(fields))
    }

    /// Applies the change to `batch`; `rows` holds the added columns, one item a row.
    ///
    /// # Errors
    /// [`SchemaError::Rows`] if the rows do not fit the added fields.
    pub fn apply<T: Serialize>(&self, batch: &RecordBatch, rows: &[T]) -> Result<RecordBatch, SchemaError> {
        let schema = self.output_schema(&batch.schema());
        let added = write(&self.added, rows)?;
        let column = |field: &FieldRef| -> Arc<dyn Array> {
            added
                .column_by_name(field.name())
                .or_else(|| batch.column_by_name(field.name()))
                .map(Arc::clone)
                .expect("every output field is an input or an added one")
        };
        let columns = schema.fields().iter().map(column).collect();
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}
