//! `annotate`: condition images that models make of the main image, such as depth, normals, soft edges and poses.
//!
//! Stands between `derive` and `tokenize` if annotators are configured. Keeps order and number of rows. Each annotator gets the main images
//! in groups of its fixed batch size, in the order of the unit. Groups depend neither on the cuts of the input nor on other units. An image
//! that the source has for the role stays, and the annotator makes none. A main image with given codes has no pixels, so annotators skip
//! it, as `derive` does. The filter of `derive` resizes pictures to the square of an annotator, and the annotator's pictures to the shape
//! of the main image.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::{MAIN_IMAGE, Refusal, RoleImage};
use cm3flow_schemas::traits::{AnnotatedImage, ImageAnnotator, ImageAnnotatorSpec, NotFinite};
use cm3flow_schemas::{DynError, RoleGrid, SchemaError, columns};
use futures::FutureExt;
use futures::future::BoxFuture;
use image::RgbImage;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tracing::Span;

use crate::channel::{BatchSender, BatchStream};
use crate::derive::resize::lanczos;
use crate::error::{Result, StageError};
use crate::owner::Owner;
use crate::stage::{Revised, Stage};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "annotate";

/// An image annotator on the thread that owns it.
pub type ImageAnnotatorOwner = Owner<Box<dyn ImageAnnotator>>;

/// An annotator, and the role of its pictures.
#[derive(Clone)]
pub struct Annotator {
    /// Role of the pictures among the sample's images.
    pub role: String,
    /// Thread that owns the model.
    pub owner: ImageAnnotatorOwner,
    /// Identity and shapes.
    pub spec: ImageAnnotatorSpec,
}

/// Stage that adds the pictures of annotators to samples.
pub struct Annotate {
    annotators: Arc<[Annotator]>,
    side_px: u32,
    change: ColumnChange,
}

impl Annotate {
    /// Annotates squares of `side_px` pixels, or pictures of the shapes in [`columns::IMAGE_GRIDS`]. Each of `annotators` has a role of its
    /// own. Its pictures get the shape of the main image.
    #[must_use]
    pub fn new(annotators: Vec<Annotator>, side_px: u32) -> Self {
        let change = ColumnChange::new(&[], vec![columns::pixels(), columns::given_codes(), columns::refusal()]);
        Self { annotators: annotators.into(), side_px, change }
    }

    /// Runs `work` on a blocking thread.
    async fn compute<T: Send + 'static>(&self, work: impl FnOnce(&[Annotator], u32) -> Result<T> + Send + 'static) -> Result<T> {
        let (annotators, side, span) = (Arc::clone(&self.annotators), self.side_px, Span::current());
        let worked = tokio::task::spawn_blocking(move || span.in_scope(|| work(&annotators, side)));
        worked.await.map_err(|source| StageError::Task { stage: NAME, source })?
    }
}

fn failed(source: DynError) -> StageError {
    StageError::Model { stage: NAME, component: "image annotator", source }
}

fn schema_error(source: SchemaError) -> StageError {
    StageError::Schema { stage: NAME, source }
}

/// Columns that this stage reads and replaces.
#[derive(Deserialize, Serialize)]
struct Columns {
    pixels: Vec<RoleImage>,
    given_codes: Vec<RoleImage>,
    #[serde(default, skip_serializing)]
    image_grids: Vec<RoleGrid>,
    refusal: Option<Refusal>,
}

impl Columns {
    fn main(&self) -> Option<&RoleImage> {
        self.pixels.iter().find(|image| image.role == MAIN_IMAGE).filter(|_| self.refusal.is_none())
    }

    /// Returns width and height of the main image, which is `main`.
    fn size_px(&self, main: &RoleImage, side: u32) -> (u32, u32) {
        RoleGrid::of(&self.image_grids, MAIN_IMAGE).map_or((side, side), |grid| grid.size_px(main.bytes.len() / 3))
    }
}

/// A row with an input for each annotator whose role it lacks, in the annotators' order.
struct Fitted {
    columns: Columns,
    inputs: Vec<Option<Vec<u8>>>,
}

/// A row that waits for its annotations.
struct Row {
    columns: Columns,
    /// `true` for each annotator that makes a picture for the row, in the annotators' order.
    is_wanted: Vec<bool>,
}

type Annotation = Result<AnnotatedImage, NotFinite>;

/// A row with the picture of each annotator, in the annotators' order; `None` where the role was taken.
struct Annotated {
    columns: Columns,
    made: Vec<Option<Annotation>>,
}

/// Pictures before and behind one annotator.
#[derive(Default)]
struct Queue {
    /// Input that the annotator has not seen yet, in order.
    pixels: Vec<u8>,
    /// Output for rows that have not been sent, in order.
    made: VecDeque<Annotation>,
}

impl Queue {
    /// Annotates as many pictures as make whole groups, or all of them if `last`.
    async fn annotate(&mut self, Annotator { role, owner, spec }: &Annotator, last: bool) -> Result<()> {
        let group = spec.numerics.batch_size.max(1) as usize;
        let mut count = self.pixels.len() / spec.bytes_per_image();
        if !last {
            count -= count % group;
        }
        if count == 0 {
            return Ok(());
        }
        let rest = self.pixels.split_off(count * spec.bytes_per_image());
        let pixels = std::mem::replace(&mut self.pixels, rest);
        let made = owner.call(move |annotator| annotator.annotate(&pixels)).await?.map_err(failed)?;
        if made.len() != count {
            return Err(failed(format!("the annotator of {role} made {} pictures of {count}", made.len()).into()));
        }
        self.made.extend(made);
        Ok(())
    }
}

/// Batches that still lack annotations.
struct Waiting {
    batches: VecDeque<(RecordBatch, Vec<Row>)>,
    /// One queue for each annotator.
    queues: Vec<Queue>,
}

impl Waiting {
    fn push(&mut self, batch: RecordBatch, rows: Vec<Fitted>) {
        let mut waiting = |Fitted { columns, inputs }: Fitted| {
            let is_wanted = inputs.iter().map(Option::is_some).collect();
            for (queue, input) in self.queues.iter_mut().zip(inputs) {
                queue.pixels.extend(input.unwrap_or_default());
            }
            Row { columns, is_wanted }
        };
        let rows = rows.into_iter().map(&mut waiting).collect();
        self.batches.push_back((batch, rows));
    }

    /// Returns the next batch with all its annotations, row by row; `None` if one is missing.
    fn pop(&mut self) -> Option<(RecordBatch, Vec<Annotated>)> {
        let rows = &self.batches.front()?.1;
        let wanted = |annotator: usize| rows.iter().filter(|row| row.is_wanted[annotator]).count();
        if (0..self.queues.len()).any(|annotator| self.queues[annotator].made.len() < wanted(annotator)) {
            return None;
        }
        let (batch, rows) = self.batches.pop_front()?;
        let mut finish = |Row { columns, is_wanted }: Row| {
            let take = |(queue, is_wanted): (&mut Queue, bool)| if is_wanted { queue.made.pop_front() } else { None };
            Annotated { columns, made: self.queues.iter_mut().zip(is_wanted).map(take).collect() }
        };
        let rows = rows.into_iter().map(&mut finish).collect();
        Some((batch, rows))
    }
}

/// Reads the rows of `batch`, and fits their main images to the annotators. Without a grid a main image is a square of `side` pixels.
fn fitted(batch: &RecordBatch, annotators: &[Annotator], side: u32) -> Result<Vec<Fitted>> {
    let wanted = [columns::PIXELS, columns::GIVEN_CODES, columns::REFUSAL];
    let rows: Vec<Columns> = rows::read_with(batch, &wanted, &[columns::IMAGE_GRIDS]).map_err(schema_error)?;
    rows.into_par_iter().map(|row| fit_row(row, annotators, side)).collect()
}

fn fit_row(columns: Columns, annotators: &[Annotator], side: u32) -> Result<Fitted> {
    let Some(main) = columns.main() else {
        return Ok(Fitted { columns, inputs: vec![None; annotators.len()] });
    };
    let (width, height) = columns.size_px(main, side);
    let picture = picture(width, height, main.bytes.clone()).map_err(|problem| failed(format!("the main image {problem}").into()))?;
    let has = |role: &str| columns.pixels.iter().chain(&columns.given_codes).any(|image| image.role == role);
    let input = |Annotator { role, spec, .. }: &Annotator| (!has(role)).then(|| lanczos(&picture, spec.side_px, spec.side_px).into_raw());
    let inputs = annotators.iter().map(input).collect();
    Ok(Fitted { columns, inputs })
}

/// Adds the annotators' pictures to a row, in the shape of its main image; without a grid, that is a square of `side` pixels. If a picture
/// is not finite, the row is refused, as `derive` refuses a sample with one broken image.
fn finished(annotated: Annotated, annotators: &[Annotator], side: u32) -> Result<Columns> {
    let Annotated { mut columns, made } = annotated;
    let (width, height) = columns.main().map_or((side, side), |main| columns.size_px(main, side));
    for (annotation, Annotator { role, .. }) in made.into_iter().zip(annotators) {
        match annotation {
            None => {}
            Some(Ok(AnnotatedImage { side_px, pixels })) => {
                let picture = picture(side_px, side_px, pixels)
                    .map_err(|problem| failed(format!("the annotator of {role}: its picture {problem}").into()))?;
                columns.pixels.push(RoleImage { role: role.clone(), bytes: lanczos(&picture, width, height).into_raw() });
            }
            Some(Err(problem)) => {
                let refusal = Refusal::new(NAME, "not_finite", format!("image {role}: {problem}"));
                return Ok(Columns { pixels: Vec::new(), given_codes: Vec::new(), refusal: Some(refusal), ..columns });
            }
        }
    }
    Ok(columns)
}

/// Returns the picture of `bytes`, or the problem for an error message.
fn picture(width: u32, height: u32, bytes: Vec<u8>) -> Result<RgbImage, String> {
    let (found, expected) = (bytes.len(), width as usize * height as usize * 3);
    let picture = if found == expected { RgbImage::from_raw(width, height, bytes) } else { None };
    picture.ok_or_else(|| format!("has {found} bytes, one of {width}x{height} pixels has {expected}"))
}

impl Revised for Annotate {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Stage for Annotate {
    fn name(&self) -> &'static str {
        NAME
    }

    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, &[columns::pixels(), columns::given_codes(), columns::refusal()])?;
        Ok(self.change.output_schema(input))
    }

    fn run(self: Box<Self>, input: BatchStream, out: BatchSender) -> BoxFuture<'static, Result<()>> {
        async move {
            let queues = self.annotators.iter().map(|_| Queue::default()).collect();
            let mut waiting = Waiting { batches: VecDeque::new(), queues };
            loop {
                let batch = input.next().await;
                let last = batch.is_none();
                if let Some(batch) = batch {
                    let (batch, rows) =
                        self.compute(move |annotators, side| fitted(&batch, annotators, side).map(|rows| (batch, rows))).await?;
                    waiting.push(batch, rows);
                }
                for (queue, annotator) in waiting.queues.iter_mut().zip(&*self.annotators) {
                    queue.annotate(annotator, last).await?;
                }
                while let Some((batch, rows)) = waiting.pop() {
                    let finish = move |annotators: &[Annotator], side| {
                        rows.into_par_iter().map(|row| finished(row, annotators, side)).collect::<Result<Vec<Columns>>>()
                    };
                    let rows = self.compute(finish).await?;
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
