//! `tokenize`: turns images into codes; has the text tokenizer and the baseline image tokenizer too.
//!
//! Stage of `prepare` behind `derive` and `annotate`. Keeps order and number of rows. Given codes are read and checked. Other images are
//! encoded in groups of one shape and of the tokenizer's fixed batch size (`groups.rs`), in the order of the unit. Groups depend neither on
//! the cuts of the input nor on other units. Text becomes tokens in `instruct`, after templates are filled in, since byte pairs merge
//! across the edges of inserted values.

mod given;
mod groups;
mod patches;
mod text;

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::{Refusal, RoleCodes, RoleImage};
use cm3flow_schemas::traits::{ImageTokenizer, ImageTokenizerSpec};
use cm3flow_schemas::{DynError, RoleGrid, SchemaError, columns};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use given::GivenTokenizer;
use groups::Groups;
pub use patches::PatchTokenizer;
pub use text::{Fidelity, TextTokenizer, fit as fit_text};

use crate::channel::{BatchSender, BatchStream};
use crate::codes;
use crate::error::{Result, StageError};
use crate::owner::Owner;
use crate::stage::{Revised, Stage};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "tokenize";

/// An image tokenizer on the thread that owns it.
pub type ImageTokenizerOwner = Owner<Box<dyn ImageTokenizer>>;

/// Stage that turns images into codes.
pub struct Tokenize {
    tokenizer: ImageTokenizerOwner,
    spec: ImageTokenizerSpec,
    change: ColumnChange,
}

impl Tokenize {
    /// Encodes with `tokenizer`, whose specification is `spec`.
    #[must_use]
    pub fn new(tokenizer: ImageTokenizerOwner, spec: ImageTokenizerSpec) -> Self {
        Self { tokenizer, spec, change: ColumnChange::new(&[columns::GIVEN_CODES], vec![columns::image_codes(), columns::refusal()]) }
    }

    /// Encodes the complete groups, or all images if `last`.
    async fn encode(&self, groups: &mut Groups, last: bool) -> Result<()> {
        for group in groups.complete(last) {
            let (grid, pixels, images) = (group.grid, group.pixels, group.images);
            let encoded = self.tokenizer.call(move |tokenizer| tokenizer.encode_grid(&pixels, grid)).await?;
            let codes = encoded.map_err(failed)?;
            if codes.len() != images.len() * grid.codes() {
                return Err(failed(format!("{} codes for {} images of {grid}", codes.len(), images.len()).into()));
            }
            images.iter().zip(codes.chunks_exact(grid.codes())).for_each(|(image, codes)| groups.fill(*image, codes));
        }
        Ok(())
    }
}

fn failed(source: DynError) -> StageError {
    StageError::Model { stage: NAME, component: "image tokenizer", source }
}

#[derive(Deserialize)]
struct In {
    pixels: Vec<RoleImage>,
    given_codes: Vec<RoleImage>,
    #[serde(default)]
    image_grids: Vec<RoleGrid>,
    refusal: Option<Refusal>,
}

#[derive(Serialize)]
struct Out {
    image_codes: Vec<RoleCodes>,
    refusal: Option<Refusal>,
}

/// A row with images that are not encoded yet.
struct Row {
    /// Roles of the images to encode.
    roles: Vec<String>,
    given: Vec<RoleCodes>,
    refusal: Option<Refusal>,
}

/// Reads the codes of an image. Checks that they are codes of `spec`, in the image's grid among `grids` or in a square.
fn read_given(image: &RoleImage, grids: &[RoleGrid], spec: &ImageTokenizerSpec) -> Result<RoleCodes, Refusal> {
    let refused = |reason, problem: String| Refusal::new(NAME, reason, format!("codes of image {}: {problem}", image.role));
    let given = codes::from_file(&image.bytes).map_err(|problem| refused("bad_codes", problem))?;
    let (grid, size) = (RoleGrid::of(grids, &image.role).unwrap_or(spec.square()), spec.codebook_size);
    if given.codes.len() != grid.codes() || (given.shape.len() == 2 && given.shape != [grid.rows as usize, grid.columns as usize]) {
        let problem = format!("their shape is {:?}, the tokenizer has {} x {}", given.shape, grid.rows, grid.columns);
        return Err(refused("wrong_number_of_codes", problem));
    }
    if let Some(code) = given.codes.iter().find(|code| **code >= size) {
        return Err(refused("code_out_of_range", format!("{code} is not below {size}")));
    }
    Ok(RoleCodes { role: image.role.clone(), codes: given.codes })
}

/// Batches with images that are not encoded yet.
struct Waiting {
    batches: VecDeque<(RecordBatch, Vec<Row>)>,
    groups: Groups,
}

impl Waiting {
    /// Takes a batch with images of the sizes in `spec`; `can_encode` is `true` if there is an encoder.
    fn push(&mut self, batch: RecordBatch, spec: &ImageTokenizerSpec, can_encode: bool) -> Result<()> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let wanted = [columns::PIXELS, columns::GIVEN_CODES, columns::REFUSAL];
        let rows: Vec<In> = rows::read_with(&batch, &wanted, &[columns::IMAGE_GRIDS]).map_err(schema_error)?;
        let rows = rows.into_iter().map(|row| self.push_row(row, spec, can_encode)).collect::<Result<_>>()?;
        self.batches.push_back((batch, rows));
        Ok(())
    }

    fn push_row(&mut self, row: In, spec: &ImageTokenizerSpec, can_encode: bool) -> Result<Row> {
        let refused = |refusal| Ok(Row { roles: Vec::new(), given: Vec::new(), refusal: Some(refusal) });
        if let Some(refusal) = row.refusal {
            return refused(refusal);
        }
        let given: Result<Vec<RoleCodes>, Refusal> =
            row.given_codes.iter().map(|image| read_given(image, &row.image_grids, spec)).collect();
        let given = match given {
            Ok(given) => given,
            Err(refusal) => return refused(refusal),
        };
        if let Some(image) = row.pixels.first().filter(|_| !can_encode) {
            let detail =
                format!("image {} is a picture, and the tokenizer has no encoder; give its codes, or name another tokenizer", image.role);
            return refused(Refusal::new(NAME, "no_encoder", detail));
        }
        // An image of another size would shift the codes of all images behind it.
        for image in &row.pixels {
            let grid = RoleGrid::of(&row.image_grids, &image.role).unwrap_or(spec.square());
            let size = spec.bytes_of(grid);
            if image.bytes.len() != size {
                return Err(failed(format!("image {} has {} bytes, the tokenizer takes {size}", image.role, image.bytes.len()).into()));
            }
            self.groups.push(grid, &image.bytes);
        }
        Ok(Row { roles: row.pixels.into_iter().map(|image| image.role).collect(), given, refusal: None })
    }

    /// Returns the next batch if all its images have codes.
    fn pop(&mut self) -> Option<(RecordBatch, Vec<Out>)> {
        let images: usize = self.batches.front()?.1.iter().map(|row| row.roles.len()).sum();
        let mut codes = self.groups.take(images)?.into_iter();
        let (batch, rows) = self.batches.pop_front()?;
        let mut take = |role| RoleCodes { role, codes: codes.next().unwrap_or_default() };
        let mut finish = |row: Row| {
            let image_codes = row.roles.into_iter().map(&mut take).chain(row.given).collect();
            Out { image_codes, refusal: row.refusal }
        };
        let rows = rows.into_iter().map(&mut finish).collect();
        Some((batch, rows))
    }
}

impl Revised for Tokenize {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Stage for Tokenize {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, &[columns::pixels(), columns::given_codes(), columns::refusal()])?;
        Ok(self.change.output_schema(input))
    }

    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move {
            let schema_error = |source| StageError::Schema { stage: NAME, source };
            let can_encode = self.tokenizer.call(|tokenizer| tokenizer.can_encode()).await?;
            let group = self.spec.numerics.batch_size.max(1) as usize;
            let mut waiting = Waiting { batches: VecDeque::new(), groups: Groups::new(group) };
            loop {
                let batch = input.next().await;
                let last = batch.is_none();
                if let Some(batch) = batch {
                    waiting.push(batch, &self.spec, can_encode)?;
                }
                self.encode(&mut waiting.groups, last).await?;
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
