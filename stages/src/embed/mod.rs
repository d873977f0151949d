//! `embed`: one embedding of the first caption and one of the main image for every sample.
//!
//! Last stage of `prepare`; it drops the pixels. Row-local: keeps order and number of rows.

mod ngrams;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::{Annotations, MAIN_IMAGE, Refusal, RoleCodes, RoleImage};
use cm3flow_schemas::traits::{ImageView, PairEmbedder};
use cm3flow_schemas::{RoleGrid, SchemaError, columns};
use serde::{Deserialize, Serialize};

pub(crate) use ngrams::normalize;
pub use ngrams::{EmbedConfig, IdfTable, NgramColourEmbedder};

use crate::error::{Result, StageError};
use crate::owner::Owner;
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "embed";

/// A pair embedder on the thread that owns it.
pub type EmbedderOwner = Owner<Box<dyn PairEmbedder>>;

/// Transform that adds embeddings and drops pixels.
pub struct Embed {
    embedder: EmbedderOwner,
    change: ColumnChange,
}

impl Embed {
    /// Embeds with the model of `embedder`.
    #[must_use]
    pub fn new(embedder: EmbedderOwner) -> Self {
        Self { embedder, change: ColumnChange::new(&[columns::PIXELS], columns::embeddings()) }
    }
}

#[derive(Deserialize)]
struct In {
    pixels: Vec<RoleImage>,
    image_codes: Vec<RoleCodes>,
    #[serde(default)]
    image_grids: Vec<RoleGrid>,
    annotations: Annotations,
    refusal: Option<Refusal>,
}

#[derive(Serialize, Clone, Default)]
struct Out {
    text_embedding: Vec<f32>,
    image_embedding: Vec<f32>,
}

impl Revised for Embed {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Embed {
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, &[columns::pixels(), columns::image_codes(), columns::annotations(), columns::refusal()])?;
        Ok(self.change.output_schema(input))
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let wanted = [columns::PIXELS, columns::IMAGE_CODES, columns::ANNOTATIONS, columns::REFUSAL];
        let input: Vec<In> = rows::read_with(&batch, &wanted, &[columns::IMAGE_GRIDS]).map_err(schema_error)?;
        let embedded = self.embedder.call_blocking(move |embedder| embed(embedder.as_mut(), &input))?;
        let embedded = embedded.map_err(|source| StageError::Model { stage: NAME, component: "pair embedder", source })?;
        self.change.apply(&batch, &embedded).map_err(schema_error)
    }
}

fn embed(embedder: &mut dyn PairEmbedder, rows: &[In]) -> Result<Vec<Out>, cm3flow_schemas::DynError> {
    let mut out = vec![Out::default(); rows.len()];
    let wanted: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].refusal.is_none()).collect();
    let texts: Vec<&str> = wanted.iter().map(|&row| rows[row].annotations.captions.first().map_or("", String::as_str)).collect();
    let images: Vec<ImageView<'_>> = wanted.iter().map(|&row| main_image(&rows[row])).collect();
    let dimension = embedder.dimension();
    let (text, image) = (embedder.embed_texts(&texts)?, embedder.embed_images(&images)?);
    for ((&row, text), image) in wanted.iter().zip(text.chunks_exact(dimension)).zip(image.chunks_exact(dimension)) {
        out[row] = Out { text_embedding: text.to_vec(), image_embedding: image.to_vec() };
    }
    Ok(out)
}

/// Returns the main image of a row that was not refused; `ingest` guarantees that there is one.
fn main_image(row: &In) -> ImageView<'_> {
    let codes = row.image_codes.iter().find(|image| image.role == MAIN_IMAGE);
    let pixels = row.pixels.iter().find(|image| image.role == MAIN_IMAGE);
    ImageView {
        codes: codes.map_or(&[], |image| &image.codes),
        pixels: pixels.map_or(&[], |image| &image.bytes),
        grid: RoleGrid::of(&row.image_grids, MAIN_IMAGE),
    }
}

#[cfg(test)]
mod tests;
