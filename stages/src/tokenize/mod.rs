//! `tokenize`: images become codes; the text tokenizer and the baseline image tokenizer live here too.
//!
//! Fourth stage of `prepare`. Keeps order and number of rows. Images are encoded in groups of the tokenizer's fixed batch size, in the
//! order in which they stand in the unit, whatever the cuts of the input; groups never span units. Text becomes tokens in
//! `instruct`, once templates have been filled in, since byte pairs merge across the edges of what is put in.

mod patches;
mod text;

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::columns;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::{Refusal, RoleCodes, RoleImage};
use cm3flow_schemas::traits::{ImageTokenizer, ImageTokenizerSpec};
use cm3flow_schemas::{DynError, SchemaError};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use patches::PatchTokenizer;
pub use text::{Fidelity, TextTokenizer, Unrepresentable, fit as fit_text};

use crate::channel::{BatchSender, BatchStream};
use crate::error::{Result, StageError};
use crate::owner::Owner;
use crate::stage::Stage;

/// Revision of this stage's code: raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// The stage's name.
pub const NAME: &str = "tokenize";

/// An image tokenizer on the thread that owns it.
pub type ImageTokenizerOwner = Owner<Box<dyn ImageTokenizer>>;

/// The stage.
pub struct Tokenize {
    tokenizer: ImageTokenizerOwner,
    spec: ImageTokenizerSpec,
    change: ColumnChange,
}

impl Tokenize {
    /// Encodes with `tokenizer`, whose specification is `spec`.
    #[must_use]
    pub fn new(tokenizer: ImageTokenizerOwner, spec: ImageTokenizerSpec) -> Self {
        Self { tokenizer, spec, change: ColumnChange::new(&[], vec![columns::image_codes()]) }
    }

    /// Encodes as many images at the front of `waiting` as make whole groups, or all of them when `last`.
    async fn encode(&self, waiting: &mut Waiting, last: bool) -> Result<()> {
        let group = self.spec.numerics.batch_size.max(1) as usize;
        let size = self.spec.bytes_per_image();
        let mut count = waiting.pixels.len() / size;
        if !last {
            count -= count % group;
        }
        if count == 0 {
            return Ok(());
        }
        let rest = waiting.pixels.split_off(count * size);
        let pixels = std::mem::replace(&mut waiting.pixels, rest);
        let encoded = self.tokenizer.call(move |tokenizer| tokenizer.encode(&pixels)).await?;
        let codes = encoded.map_err(failed)?;
        if codes.len() != count * self.spec.codes_per_image() {
            return Err(failed(format!("{} codes for {count} images of {}", codes.len(), self.spec.codes_per_image()).into()));
        }
        waiting.codes.extend(codes.chunks_exact(self.spec.codes_per_image()).map(<[u32]>::to_vec));
        Ok(())
    }
}

fn failed(source: DynError) -> StageError {
    StageError::Model { stage: NAME, component: "image tokenizer", source }
}

#[derive(Deserialize)]
struct In {
    pixels: Vec<RoleImage>,
    refusal: Option<Refusal>,
}

#[derive(Serialize)]
struct Out {
    image_codes: Vec<RoleCodes>,
}

/// Batches whose images are not all encoded yet.
#[derive(Default)]
struct Waiting {
    batches: VecDeque<(RecordBatch, Vec<Vec<String>>)>,
    /// Pixels of images to be encoded, in order.
    pixels: Vec<u8>,
    /// Codes of images whose rows have not been sent, in order.
    codes: VecDeque<Vec<u32>>,
}

impl Waiting {
    /// Takes a batch whose images have `size` bytes each.
    fn push(&mut self, batch: RecordBatch, size: usize) -> Result<()> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let rows: Vec<In> = rows::read(&batch, &[columns::PIXELS, columns::REFUSAL]).map_err(schema_error)?;
        let mut roles = Vec::with_capacity(rows.len());
        for row in rows {
            let images = if row.refusal.is_none() { row.pixels } else { Vec::new() };
            // One image of another size would shift the codes of all that follow.
            if let Some(image) = images.iter().find(|image| image.bytes.len() != size) {
                return Err(failed(format!("image {} has {} bytes, the tokenizer takes {size}", image.role, image.bytes.len()).into()));
            }
            images.iter().for_each(|image| self.pixels.extend(&image.bytes));
            roles.push(images.into_iter().map(|image| image.role).collect());
        }
        self.batches.push_back((batch, roles));
        Ok(())
    }

    /// The next batch whose images all have codes.
    fn pop(&mut self) -> Option<(RecordBatch, Vec<Out>)> {
        let images: usize = self.batches.front()?.1.iter().map(Vec::len).sum();
        if images > self.codes.len() {
            return None;
        }
        let (batch, roles) = self.batches.pop_front()?;
        let mut codes = self.codes.drain(..images);
        let mut take = |role| RoleCodes { role, codes: codes.next().unwrap_or_default() };
        let rows = roles.into_iter().map(|roles| Out { image_codes: roles.into_iter().map(&mut take).collect() }).collect();
        Some((batch, rows))
    }
}

impl Stage for Tokenize {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, &[columns::pixels(), columns::refusal()])?;
        Ok(self.change.output_schema(input))
    }

    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move {
            let schema_error = |source| StageError::Schema { stage: NAME, source };
            let mut waiting = Waiting::default();
            loop {
                let batch = input.next().await;
                let last = batch.is_none();
                if let Some(batch) = batch {
                    waiting.push(batch, self.spec.bytes_per_image())?;
                }
                self.encode(&mut waiting, last).await?;
                while let Some((batch, rows)) = waiting.pop() {
                    out.send(self.change.apply(&batch, &rows).map_err(schema_error)?).await?;
                }
                if last {
                    return Ok(());
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
