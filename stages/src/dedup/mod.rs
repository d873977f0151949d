//! `dedup`: elects one of equal samples.
//!
//! Stage of `settle`. It sees a window as a whole, and the samples that earlier windows kept. Keeps order and number of rows; adds
//! `duplicate_of`. The sample that stays is one of an earlier window, else held-out before train, else the one with the smallest sample id,
//! else the first row.

mod frame;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::{SchemaError, columns};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::channel::{BatchSender, BatchStream};
use crate::error::{Result, StageError};
use crate::stage::{Revised, Stage};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "dedup";

/// `[dedup]`: samples that count as equal, of which one is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DedupConfig {
    /// Content that equal samples share.
    pub by: DedupKey,
}

/// Content that equal samples share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DedupKey {
    /// Bytes of the main image.
    #[default]
    Image,
    /// All images and all annotations.
    Sample,
}

impl DedupKey {
    const fn column(self) -> &'static str {
        match self {
            Self::Image => columns::IMAGE_ID,
            Self::Sample => columns::SAMPLE_ID,
        }
    }
}

/// Stage that marks duplicates.
#[derive(Debug)]
pub struct Dedup {
    config: DedupConfig,
    kept_before: RecordBatch,
    change: ColumnChange,
}

impl Dedup {
    /// Deduplicates within the window and against `kept_before`: the columns `sample_id` and `image_id` of samples that earlier windows
    /// kept.
    #[must_use]
    pub fn new(config: DedupConfig, kept_before: RecordBatch) -> Self {
        Self { config, kept_before, change: ColumnChange::new(&[], vec![columns::duplicate_of()]) }
    }
}

#[derive(Serialize)]
struct Out {
    duplicate_of: Option<String>,
}

impl Revised for Dedup {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Stage for Dedup {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        for column in [columns::SAMPLE_ID, columns::IMAGE_ID, columns::SPLIT] {
            rows::position(input, column)?;
        }
        Ok(self.change.output_schema(input))
    }

    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move {
            let mut batches = Vec::new();
            while let Some(batch) = input.next().await {
                batches.push(batch);
            }
            let Some(first) = batches.first() else { return Ok(()) };
            let schema = first.schema();
            let worked = tokio::task::spawn_blocking(move || {
                let window = concat_batches(&schema, &batches)
                    .map_err(|source| StageError::Arrow { what: "the window's samples".into(), source })?;
                let elected = frame::elect(&window, &self.kept_before, self.config.by.column())?;
                let rows: Vec<Out> = elected.into_iter().map(|duplicate_of| Out { duplicate_of }).collect();
                self.change.apply(&window, &rows).map_err(|source| StageError::Schema { stage: NAME, source })
            });
            out.send(worked.await.map_err(|source| StageError::Task { stage: NAME, source })??).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
