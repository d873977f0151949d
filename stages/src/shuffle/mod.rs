//! `shuffle`: documents of a bucket in an order that depends only on the seed and their ids.
//!
//! First stage of `pack`. Buffers its bucket; keeps the rows, but not their order.

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::digest::PartHasher;
use cm3flow_schemas::{DocumentId, SchemaError, columns, rows};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;

use crate::channel::{BatchSender, BatchStream};
use crate::error::{Result, StageError};
use crate::stage::{Revised, Stage};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "shuffle";

/// Stage that orders documents by a keyed hash.
#[derive(Debug)]
pub struct Shuffle {
    seed: u64,
}

impl Shuffle {
    /// Orders by a hash keyed by `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn shuffle(&self, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
        let arrow_error = |source| StageError::Arrow { what: "the bucket's documents".into(), source };
        let bucket = concat_batches(schema, batches).map_err(arrow_error)?;
        let rows: Vec<In> = rows::read(&bucket, &[columns::DOCUMENT_ID]).map_err(|source| StageError::Schema { stage: NAME, source })?;
        let key = |row: &In| PartHasher::new(NAME).part(&self.seed.to_le_bytes()).part(&row.document_id.0).id();
        let mut order: Vec<(_, u64)> = rows.iter().zip(0..).map(|(row, index)| (key(row), index)).collect();
        order.sort_unstable();
        let indices = UInt64Array::from_iter_values(order.into_iter().map(|(_, index)| index));
        take_record_batch(&bucket, &indices).map_err(arrow_error)
    }
}

#[derive(Deserialize)]
struct In {
    document_id: DocumentId,
}

impl Revised for Shuffle {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Stage for Shuffle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::position(input, columns::DOCUMENT_ID)?;
        Ok(std::sync::Arc::clone(input))
    }

    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move {
            let mut batches = Vec::new();
            while let Some(batch) = input.next().await {
                batches.push(batch);
            }
            let Some(first) = batches.first() else { return Ok(()) };
            let schema = first.schema();
            let shuffled = tokio::task::spawn_blocking(move || self.shuffle(&schema, &batches)).await;
            out.send(shuffled.map_err(|source| StageError::Task { stage: NAME, source })??).await
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
