//! `mask`: the CM3 objective: spans move to the end of their document, and sentinels mark their places.
//!
//! Last stage of `compose`. Row-local: keeps order and number of rows. Every span costs exactly three more tokens, its sentinel twice and
//! the span end; `instruct` has left room for them.
//!
//! # Source
//! CM3 paper, section 2, <https://arxiv.org/abs/2201.07520>; numbers as in the CM3Leon paper, section 2.2.

mod spans;

use std::ops::RangeInclusive;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use cm3flow_schemas::document::{Modality, Role, Segment};
use cm3flow_schemas::limits::{problem, within};
use cm3flow_schemas::random::Draws;
use cm3flow_schemas::rows::{self, ColumnChange};
use cm3flow_schemas::sample::Refusal;
use cm3flow_schemas::vocabulary::Vocabulary;
use cm3flow_schemas::{DocumentId, SchemaError, columns};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, StageError};
use crate::stage::{Revised, Transform};

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 1;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "mask";
/// Number of tokens that a masked span adds to its document.
pub const TOKENS_PER_SPAN: usize = 3;

const MEAN_SPANS: RangeInclusive<f64> = 0.0..=16.0;
const FULL_SEGMENT: RangeInclusive<f64> = 0.0..=1.0;
const SENTINEL_LOSS: RangeInclusive<f32> = 0.0..=1.0;
const VARIANTS: RangeInclusive<u16> = 1..=64;

/// `[mask]`: number and kind of masked spans, which move to the end of their document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskConfig {
    /// Mean number of a document's spans, which are drawn from a Poisson distribution; 0 masks nothing.
    #[schemars(transform = within(MEAN_SPANS))]
    pub mean_spans: f64,
    /// Largest number of spans of a document; always below the number of sentinels.
    pub max_spans: u16,
    /// Share of the documents that mask one whole text or image instead of spans.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(!skip_serializing_if, transform = within(FULL_SEGMENT))]
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
        Self { mean_spans: 1.0, max_spans: 16, full_segment: 0.0, sentinel_loss: 1.0, variants: 1 }
    }
}

impl MaskConfig {
    /// Returns the problems of the fields, each with the field's path.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let limits = [
            problem("mask.mean_spans", self.mean_spans, &MEAN_SPANS),
            problem("mask.full_segment", self.full_segment, &FULL_SEGMENT),
            problem("mask.sentinel_loss", self.sentinel_loss, &SENTINEL_LOSS),
            problem("mask.variants", self.variants, &VARIANTS),
        ];
        limits.into_iter().flatten().collect()
    }
}

/// Returns the number of spans of a document: Poisson, clamped.
#[must_use]
pub fn span_count(config: &MaskConfig, seed: u64, document: DocumentId, sentinels: u32) -> u16 {
    let drawn =
        if is_full_segment(config, seed, document) { 1 } else { Draws::new(seed, "span count", &document.0).poisson(config.mean_spans) };
    drawn.min(u32::from(config.max_spans)).min(sentinels.saturating_sub(1)) as u16
}

/// Checks whether one whole text or image of a document is masked instead of spans.
fn is_full_segment(config: &MaskConfig, seed: u64, document: DocumentId) -> bool {
    config.full_segment > 0.0 && Draws::new(seed, "full segment", &document.0).unit() < config.full_segment
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
        let mut draws = Draws::new(self.seed, NAME, &document_id.0);
        let chosen = if is_full_segment(&self.config, self.seed, document_id) {
            spans::choose_segment(&segments, &mut draws)
        } else {
            spans::choose(&segments, usize::from(spans), &mut draws)
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

/// Control tokens of masking.
struct Controls {
    /// Id of the first sentinel.
    sentinel: u32,
    /// Id of the span end.
    span_end: u32,
    /// Loss weight of sentinels.
    sentinel_loss: f32,
}

/// Moves the spans (sorted, disjoint, each within one segment) to the tail. Segments keep modality, role and loss weight.
fn rearrange(tokens: &[u32], segments: &[Segment], spans: &[std::ops::Range<usize>], controls: &Controls) -> (Vec<u32>, Vec<Segment>) {
    let mut out = Rearranged::default();
    let mut spans_left = spans.iter().enumerate().peekable();
    let (body, closing) = segments.split_at(segments.len().saturating_sub(1));
    for segment in body {
        let mut position = segment.range().start;
        while let Some((number, span)) = spans_left.next_if(|(_, span)| span.start < segment.range().end) {
            out.push(segment, &tokens[position..span.start]);
            out.control(Role::Sentinel, controls.sentinel + number as u32, controls.sentinel_loss);
            position = span.end;
        }
        out.push(segment, &tokens[position..segment.range().end]);
    }
    for (number, span) in spans.iter().enumerate() {
        let of_span = body.iter().find(|segment| segment.range().contains(&span.start));
        out.control(Role::Sentinel, controls.sentinel + number as u32, controls.sentinel_loss);
        of_span.into_iter().for_each(|segment| out.push(segment, &tokens[span.clone()]));
        out.control(Role::SpanEnd, controls.span_end, 1.0);
    }
    closing.iter().for_each(|segment| out.push(segment, &tokens[segment.range()]));
    (out.tokens, out.segments)
}

#[derive(Default)]
struct Rearranged {
    tokens: Vec<u32>,
    segments: Vec<Segment>,
}

impl Rearranged {
    fn push(&mut self, of: &Segment, tokens: &[u32]) {
        if !tokens.is_empty() {
            self.segments.push(Segment { start: self.tokens.len() as u32, len: tokens.len() as u32, ..*of });
            self.tokens.extend(tokens);
        }
    }

    fn control(&mut self, role: Role, id: u32, loss_weight: f32) {
        self.push(&Segment { start: 0, len: 1, modality: Modality::Control, role, loss_weight }, &[id]);
    }
}

#[cfg(test)]
mod tests;
