//! `mask`: the CM3 objective: spans move to the end of their document, and sentinels mark their places.
//!
//! Last stage of `compose`. Row-local: keeps order and number of rows. Every span costs exactly three more tokens, its sentinel twice and
//! the span end; `instruct` has left room for them.
//!
//! Random spans rarely hide the whole caption or answer, since an image is far longer. So shares of the documents hide exactly the hole that
//! their task asks for, or the text that guidance leaves out: the forms of the prompts.
//!
//! # Source
//! CM3 paper, section 2, <https://arxiv.org/abs/2201.07520>; numbers of random spans as in the CM3Leon paper, section 2.2.

mod plan;
mod rearrange;
mod spans;

use std::ops::RangeInclusive;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::document::Segment;
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::Refusal;
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_schemas::{DocumentId, SchemaError, columns};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use plan::Objective;

use crate::error::{Result, StageError};
use crate::mask::plan::Plan;
use crate::mask::rearrange::{Controls, rearrange};
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 2;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "mask";
/// Number of tokens that a masked span adds to its document.
pub const TOKENS_PER_SPAN: usize = 3;

const MEAN_SPANS: RangeInclusive<f64> = 0.0..=16.0;
const SHARE: RangeInclusive<f64> = 0.0..=1.0;
const SENTINEL_LOSS: RangeInclusive<f32> = 0.0..=1.0;
const VARIANTS: RangeInclusive<u16> = 1..=64;

/// `[mask]`: number and kind of masked spans, which move to the end of their document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskConfig {
    /// Mean number of a document's random spans, which are drawn from a Poisson distribution; 0 masks nothing, holes included.
    #[schemars(transform = within(MEAN_SPANS))]
    pub mean_spans: f64,
    /// Largest number of spans of a document; always below the number of sentinels.
    pub max_spans: u16,
    /// Share of the documents that mask exactly one hole: a text that their task asks for. Of documents that ask for an image at their end, half of
    /// these have no mask, which is the prompt of the image.
    #[schemars(transform = within(SHARE))]
    pub holes: f64,
    /// Share of the documents that ask for an image at their end in which the text before the image is masked: the unconditional stream of
    /// classifier-free guidance.
    #[schemars(transform = within(SHARE))]
    pub drop: f64,
    /// Share of the other documents that mask a random box of an image, one span a row, instead of random spans.
    #[schemars(transform = within(SHARE))]
    pub boxes: f64,
    /// Share of the other documents that mask one whole text or image instead of random spans.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(!skip_serializing_if, transform = within(SHARE))]
    pub full_segment: f64,
    /// Loss weight of sentinels; 0 in the CM3 paper.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(!skip_serializing_if, transform = within(SENTINEL_LOSS))]
    pub sentinel_loss: f32,
    /// Number of variants of every train document, each with masks, retrieved documents and wordings of its own. Epoch `e` reads variant `e`
    /// modulo their number. Each takes as many bytes as the first.
    #[serde(skip_serializing_if = "is_single")]
    #[schemars(!skip_serializing_if, transform = within(VARIANTS))]
    pub variants: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_single(variants: &u16) -> bool {
    *variants == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_one(weight: &f32) -> bool {
    *weight == 1.0
}

impl Default for MaskConfig {
    fn default() -> Self {
        Self { mean_spans: 1.0, max_spans: 16, holes: 0.5, drop: 0.1, boxes: 0.0, full_segment: 0.0, sentinel_loss: 1.0, variants: 1 }
    }
}

impl MaskConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let limits = [
            problem("mask.mean_spans", self.mean_spans, &MEAN_SPANS),
            problem("mask.holes", self.holes, &SHARE),
            problem("mask.drop", self.drop, &SHARE),
            (self.holes + self.drop > 1.0)
                .then(|| format!("mask.holes and mask.drop must be at most 1 together, got {} and {}", self.holes, self.drop)),
            problem("mask.boxes", self.boxes, &SHARE),
            problem("mask.full_segment", self.full_segment, &SHARE),
            problem("mask.sentinel_loss", self.sentinel_loss, &SENTINEL_LOSS),
            problem("mask.variants", self.variants, &VARIANTS),
        ];
        limits.into_iter().flatten().collect()
    }
}

/// Transform that masks documents.
#[derive(Debug)]
pub struct Mask {
    config: MaskConfig,
    vocabulary: Vocabulary,
    seed: u64,
    change: ColumnChange,
}

impl Mask {
    /// Masks documents in ids of `vocabulary`, in as many spans as `instruct` drew with the same `config`.
    #[must_use]
    pub fn new(config: &MaskConfig, vocabulary: Vocabulary, seed: u64) -> Self {
        let document = columns::document();
        let field = |name| document.field_with_name(name).cloned().map(std::sync::Arc::new).expect("a column of documents");
        let added = [columns::TOKENS, columns::SEGMENTS, columns::SPANS].map(field).to_vec();
        Self { config: config.clone(), vocabulary, seed, change: ColumnChange::new(&[], added) }
    }

    fn mask(&self, row: In) -> Out {
        let In { document_id, tokens, segments, spans, refusal } = row;
        let Some(span_end) = self.vocabulary.span_end.filter(|_| refusal.is_none() && spans > 0) else {
            return Out { tokens, segments, spans: if refusal.is_some() { spans } else { 0 } };
        };
        let objective = Objective { config: &self.config, vocabulary: &self.vocabulary, seed: self.seed };
        let chosen = match objective.plan(document_id, &tokens, &segments) {
            Plan::Ranges(mut ranges) => {
                // `instruct` left room for the spans that it counted; a text that it cut to nothing may change the plan.
                ranges.truncate(usize::from(spans));
                ranges
            }
            Plan::Random(_) => spans::choose(&segments, usize::from(spans), &mut Draws::new(self.seed, NAME, &document_id.0)),
        };
        let controls = Controls { sentinel: self.vocabulary.sentinels.start, span_end, sentinel_loss: self.config.sentinel_loss };
        let (tokens, segments) = rearrange(&tokens, &segments, &chosen, &controls);
        Out { tokens, segments, spans: chosen.len() as u16 }
    }
}

#[derive(Deserialize)]
struct In {
    document_id: DocumentId,
    tokens: Vec<u32>,
    segments: Vec<Segment>,
    spans: u16,
    refusal: Option<Refusal>,
}

#[derive(Serialize)]
struct Out {
    tokens: Vec<u32>,
    segments: Vec<Segment>,
    spans: u16,
}

impl Revised for Mask {
    const NAME: &'static str = NAME;
    const REVISION: u32 = REVISION;
}

impl Transform for Mask {
    fn output_schema(&self, input: &SchemaRef) -> Result<SchemaRef, SchemaError> {
        rows::require(input, columns::document().fields())?;
        Ok(self.change.output_schema(input))
    }

    fn transform(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        let schema_error = |source| StageError::Schema { stage: NAME, source };
        let wanted = [columns::DOCUMENT_ID, columns::TOKENS, columns::SEGMENTS, columns::SPANS, columns::REFUSAL];
        let input: Vec<In> = rows::read(&batch, &wanted).map_err(schema_error)?;
        let masked: Vec<Out> = input.into_iter().map(|row| self.mask(row)).collect();
        self.change.apply(&batch, &masked).map_err(schema_error)
    }
}

#[cfg(test)]
mod tests;
