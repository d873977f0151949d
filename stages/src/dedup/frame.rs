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
    let rows = frame(window, &[SAMPLE_ID, SPLIT], key)?;
    let earlier = frame(kept_before, &[SAMPLE_ID], key)?;
    elected(&rows, &earlier).map_err(failed)
}

fn elected(rows: &DataFrame, earlier: &DataFrame) -> PolarsResult<Vec<Option<String>>> {
    let rows = rows.with_row_index(PlSmallStr::from_static(POSITION), None)?;
    // "held_out" sorts before "train".
    let mut first = first_by_key(&rows, &[SPLIT, SAMPLE_ID, POSITION])?.select([KEY, SAMPLE_ID, POSITION])?;
    first.rename(SAMPLE_ID, PlSmallStr::from_static(ELECTED))?.rename(POSITION, PlSmallStr::from_static(ELECTED_POSITION))?;
    let mut earlier = first_by_key(earlier, &[SAMPLE_ID])?.select([KEY, SAMPLE_ID])?;
    earlier.rename(SAMPLE_ID, PlSmallStr::from_static(EARLIER))?;
    let joined = rows.left_join(&first, [KEY], [KEY])?.left_join(&earlier, [KEY], [KEY])?;
    let joined = joined.sort([POSITION], SortMultipleOptions::default())?;
    let (earlier, elected) = (joined.column(EARLIER)?.str()?, joined.column(ELECTED)?.str()?);
    let (position, elected_position) = (joined.column(POSITION)?.idx()?, joined.column(ELECTED_POSITION)?.idx()?);
    let others = elected.iter().zip(elected_position.iter().zip(position.iter()));
    let others = others.map(|(elected, (elected_position, position))| elected.filter(|_| elected_position != position));
    Ok(earlier.iter().zip(others).map(|(earlier, other)| earlier.or(other).map(str::to_owned)).collect())
}

/// Returns the first row of each key in the order of the columns `by`.
fn first_by_key(frame: &DataFrame, by: &[&str]) -> PolarsResult<DataFrame> {
    let sorted = frame.sort(by, SortMultipleOptions::default())?;
    sorted.unique_stable(Some(&[KEY.to_owned()]), UniqueKeepStrategy::First, None)
}

/// Returns the columns `names` of `batch`, and beside them the column `key` under the name [`KEY`].
fn frame(batch: &RecordBatch, names: &[&str], key: &str) -> Result<DataFrame> {
    let column = |name: &str, alias: &str| -> Result<Column> {
        let position = rows::position(&batch.schema(), name).map_err(|source| StageError::Schema { stage: NAME, source })?;
        Ok(series(alias, batch.column(position).as_ref())?.into())
    };
    let mut columns: Vec<Column> = names.iter().map(|name| column(name, name)).collect::<Result<_>>()?;
    columns.push(column(key, KEY)?);
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
