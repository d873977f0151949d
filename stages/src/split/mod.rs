//! `split`: train or held out, row by row, by the hash of the image.
//!
//! First stage of `settle`. Keeps order and number of rows. It stands before `dedup`, whose election prefers held-out rows.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::Split as SplitName;
use cm3flow_schemas::{ImageId, SchemaError, columns};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "split";

const HELD_OUT: Range<f64> = 0.0..1.0;

/// `[split]`: the share for evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the images to hold out. Nothing is trained or fitted on them. The image's id decides, so copies of an image stay together.
    #[schemars(transform = within(HELD_OUT))]
    pub held_out: f64,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { held_out: 0.05 }
    }
}

impl SplitConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        problem("split.held_out", self.held_out, &HELD_OUT).into_iter().collect()
    }
}

/// Transform that adds the split.
#[derive(Debug)]
pub struct Split {
    config: SplitConfig,
    seed: u64,
    change: ColumnChange,
}

impl Split {
    /// Splits by `config` and `seed`.
    #[must_use]
    pub fn new(config: SplitConfig, seed: u64) -> Self {
        Self { config, seed, change: ColumnChange::new(&[], vec![columns::split()]) }
    }
}

#[derive(Deserialize)]
struct In {
    image_id: ImageId,
}

#[derive(Serialize)]
struct Out {
    split: SplitName,
}

impl Revised for Split {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Split {
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::position(input, columns::IMAGE_ID)?;
        Ok(self.change.output_schema(input))
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let rows: Vec<In> = rows::read(&batch, &[columns::IMAGE_ID]).map_err(schema_error)?;
        let split = |row: &In| Out { split: SplitName::of(self.seed, row.image_id, self.config.held_out) };
        self.change.apply(&batch, &rows.iter().map(split).collect::<Vec<_>>()).map_err(schema_error)
    }
}

#[cfg(test)]
mod tests;
