//! Election of duplicates in Polars, which no other module enters: columns go in by the Arrow C Data Interface, plain values come out.

use arrow::array::{Array, RecordBatch};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use cm3flow_schemas::columns::{SAMPLE_ID, SPLIT};
use cm3flow_schemas::rows;
use polars::prelude::*;
use polars_arrow::ffi;

use super::NAME;
use crate::error::{Result, StageError};

const POSITION: &str = "position";
const KEY: &str = "key";
const ELECTED: &str = "elected";
const ELECTED_POSITION: &str = "elected_position";
const EARLIER: &str = "earlier";

fn failed(source: PolarsError) -> StageError {
    StageError::Table { stage: NAME, source: source.into() }
}

/// Returns for each row of `window` the sample that stands for it, or `None` if it stands for itself. `key` is the column that equal rows share.
pub(super) fn elect(window: &RecordBatch, kept_before: &RecordBatch, key: &str) -> Result<Vec<Option<String>>> {
    let rows = frame(window, &[SAMPLE_ID, SPLIT, key])?.with_row_index(PlSmallStr::from_static(POSITION), None).map_err(failed)?;
    let earlier = frame(kept_before, &[SAMPLE_ID, key])?;
    let rows = rows.lazy().with_column(col(key).alias(KEY));
    let earlier = earlier.lazy().group_by([col(key).alias(KEY)]).agg([col(SAMPLE_ID).min().alias(EARLIER)]);
    // Held-out samples come first, as "held_out" sorts before "train".
    let elected = rows
        .clone()
        .sort([SPLIT, SAMPLE_ID, POSITION], SortMultipleOptions::default())
        .group_by([col(KEY)])
        .agg([col(SAMPLE_ID).first().alias(ELECTED), col(POSITION).first().alias(ELECTED_POSITION)]);
    let joined = rows
        .join(elected, [col(KEY)], [col(KEY)], JoinArgs::new(JoinType::Left))
        .join(earlier, [col(KEY)], [col(KEY)], JoinArgs::new(JoinType::Left))
        .with_column(
            when(col(EARLIER).is_not_null())
                .then(col(EARLIER))
                .when(col(ELECTED_POSITION).neq(col(POSITION)))
                .then(col(ELECTED))
                .otherwise(lit(NULL).cast(DataType::String))
                .alias("duplicate_of"),
        )
        .sort([POSITION], SortMultipleOptions::default())
        .collect()
        .map_err(failed)?;
    let column = joined.column("duplicate_of").and_then(|column| column.str().cloned()).map_err(failed)?;
    Ok(column.iter().map(|value| value.map(str::to_owned)).collect())
}

fn frame(batch: &RecordBatch, names: &[&str]) -> Result<DataFrame> {
    let mut columns: Vec<Column> = Vec::with_capacity(names.len());
    for &name in names {
        // The key may be one of the other columns.
        if columns.iter().any(|column| column.name() == name) {
            continue;
        }
        let position = rows::position(&batch.schema(), name).map_err(|source| StageError::Schema { stage: NAME, source })?;
        columns.push(series(name, batch.column(position).as_ref())?.into());
    }
    DataFrame::new(batch.num_rows(), columns).map_err(failed)
}

fn series(name: &str, array: &dyn Array) -> Result<Series> {
    let (array, schema) =
        arrow::ffi::to_ffi(&array.to_data()).map_err(|source| StageError::Arrow { what: format!("column {name}"), source })?;
    // SAFETY: both libraries declare these structs with the layout that the C Data Interface fixes. Each struct is moved, so it is released
    // once, by its new owner.
    let (array, schema): (ffi::ArrowArray, ffi::ArrowSchema) = unsafe {
        (std::mem::transmute::<FFI_ArrowArray, ffi::ArrowArray>(array), std::mem::transmute::<FFI_ArrowSchema, ffi::ArrowSchema>(schema))
    };
    // SAFETY: the array was exported above together with this schema.
    let imported = unsafe {
        let field = ffi::import_field_from_c(&schema).map_err(failed)?;
        ffi::import_array_from_c(array, field.dtype).map_err(failed)?
    };
    Series::try_from((PlSmallStr::from_str(name), imported)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;
    use cm3flow_schemas::columns::IMAGE_ID;

    use super::*;

    fn batch(rows: &[(&str, &str, &str)]) -> RecordBatch {
        let column = |of: fn(&(&str, &str, &str)) -> String| Arc::new(StringArray::from_iter_values(rows.iter().map(of))) as _;
        RecordBatch::try_from_iter([
            (SAMPLE_ID, column(|row| row.0.into())),
            (IMAGE_ID, column(|row| row.1.into())),
            (SPLIT, column(|row| row.2.into())),
        ])
        .expect("three columns")
    }

    #[test]
    fn earlier_window_then_held_out_then_smallest_id_stays() {
        let window = batch(&[
            ("b", "x", "train"),
            ("a", "x", "train"),
            ("d", "y", "train"),
            ("c", "z", "train"),
            ("c", "z", "train"),
            ("f", "w", "train"),
            ("g", "w", "held_out"),
        ]);
        let earlier = batch(&[("0", "y", "train")]);
        let elected = elect(&window, &earlier, IMAGE_ID).expect("joined");
        let expected = [Some("a"), None, Some("0"), None, Some("c"), Some("g"), None];
        assert_eq!(elected, expected.map(|id| id.map(str::to_owned)));
    }

    #[test]
    fn equal_images_with_other_captions_stay_when_samples_are_compared() {
        let window = batch(&[("a", "x", "train"), ("b", "x", "train"), ("a", "x", "train")]);
        let elected = elect(&window, &batch(&[]), SAMPLE_ID).expect("joined");
        assert_eq!(elected, [None, None, Some("a".to_owned())]);
    }
}
