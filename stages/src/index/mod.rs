//! `index`: the bank of train samples for retrieval by later documents, with exact inner-product search.
//!
//! Last stage of `settle`. Held-out samples and duplicates enter no bank.

mod bank;
mod bounded;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, RoleCodes, Split};
use cm3flow_schemas::{Grid, ImageId, RoleGrid, SampleId, SchemaError, columns, rows};
use serde::{Deserialize, Serialize};

pub(crate) use bank::dot;
pub use bank::{Bank, Hit, pair_embedding};
pub use bounded::{BoundedBank, WindowRows, by_place};

use crate::error::{Result, StageError};
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 2;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "index";

/// Transform from prepared samples, with split and election, to rows of the bank, with grids where images have several shapes. Keeps order,
/// drops held-out samples and duplicates.
#[derive(Debug, Default)]
pub struct Index;

#[derive(Deserialize)]
struct In {
    sample_id: SampleId,
    image_id: ImageId,
    annotations: Annotations,
    image_codes: Vec<RoleCodes>,
    #[serde(default)]
    image_grids: Vec<RoleGrid>,
    text_embedding: Vec<f32>,
    image_embedding: Vec<f32>,
    split: Split,
    duplicate_of: Option<SampleId>,
}

#[derive(Serialize)]
struct Out {
    sample_id: SampleId,
    image_id: ImageId,
    captions: Vec<String>,
    codes: Vec<u32>,
    embedding: Vec<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grid: Option<Grid>,
}

impl Revised for Index {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Index {
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, columns::prepared_sample().fields())?;
        rows::require(input, &[columns::split(), columns::duplicate_of()])?;
        Ok(bank_schema(input))
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let wanted = [
            columns::SAMPLE_ID,
            columns::IMAGE_ID,
            columns::ANNOTATIONS,
            columns::IMAGE_CODES,
            columns::TEXT_EMBEDDING,
            columns::IMAGE_EMBEDDING,
            columns::SPLIT,
            columns::DUPLICATE_OF,
        ];
        let input: Vec<In> = rows::read_with(&batch, &wanted, &[columns::IMAGE_GRIDS]).map_err(schema_error)?;
        let banked = input.into_iter().filter(|row| row.split == Split::Train && row.duplicate_of.is_none()).map(|row| Out {
            sample_id: row.sample_id,
            image_id: row.image_id,
            captions: row.annotations.captions,
            codes: row.image_codes.into_iter().find(|image| image.role == MAIN_IMAGE).map(|image| image.codes).unwrap_or_default(),
            embedding: pair_embedding(&row.text_embedding, &row.image_embedding),
            grid: RoleGrid::of(&row.image_grids, MAIN_IMAGE),
        });
        rows::write(&bank_schema(&batch.schema()), &banked.collect::<Vec<_>>()).map_err(schema_error)
    }
}

/// Returns the schema of bank rows for samples with the columns of `input`.
fn bank_schema(input: &SchemaRef) -> SchemaRef {
    let bank = columns::bank_sample();
    if input.index_of(columns::IMAGE_GRIDS).is_ok() { columns::with(&bank, &[columns::grid()]) } else { bank }
}

#[cfg(test)]
mod tests;
