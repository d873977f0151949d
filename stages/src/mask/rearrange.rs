//! The masked form of a document: spans at its end, sentinels at their places.

use std::ops::Range;

use cm3flow_schemas::document::{Modality, Role, Segment};

/// Control tokens of masking.
pub(super) struct Controls {
    /// Id of the first sentinel.
    pub(super) sentinel: u32,
    /// Id of the span end.
    pub(super) span_end: u32,
    /// Loss weight of sentinels.
    pub(super) sentinel_loss: f32,
}

/// Moves the spans (sorted, disjoint, each between two control tokens) to the tail. Segments keep modality, role and loss weight; a span end
/// has the weight of what it ends.
pub(super) fn rearrange(tokens: &[u32], segments: &[Segment], spans: &[Range<usize>], controls: &Controls) -> (Vec<u32>, Vec<Segment>) {
    let mut out = Rearranged { tokens, masked: Vec::with_capacity(tokens.len()), segments: Vec::new() };
    let sentinel = |number: usize| controls.sentinel + number as u32;
    let (body, closing) = segments.split_at(segments.len().saturating_sub(1));
    for segment in body {
        let range = segment.range();
        let mut position = range.start;
        for (number, span) in spans.iter().enumerate().filter(|(_, span)| span.start < range.end && range.start < span.end) {
            // A text may have several segments, and a span goes on from one to the next.
            if range.contains(&span.start) {
                out.push(segment, position..span.start);
                out.control(Role::Sentinel, sentinel(number), controls.sentinel_loss);
            }
            position = span.end.min(range.end);
        }
        out.push(segment, position..range.end);
    }
    for (number, span) in spans.iter().enumerate() {
        out.control(Role::Sentinel, sentinel(number), controls.sentinel_loss);
        let mut weight = 1.0;
        for segment in body.iter().filter(|segment| segment.range().start < span.end && span.start < segment.range().end) {
            out.push(segment, span.start.max(segment.range().start)..span.end.min(segment.range().end));
            weight = segment.loss_weight;
        }
        out.control(Role::SpanEnd, controls.span_end, weight);
    }
    closing.iter().for_each(|segment| out.push(segment, segment.range()));
    (out.masked, out.segments)
}

struct Rearranged<'t> {
    /// Tokens of the document.
    tokens: &'t [u32],
    masked: Vec<u32>,
    segments: Vec<Segment>,
}

impl Rearranged<'_> {
    /// Appends the tokens `range`, which belong to the segment `of`.
    fn push(&mut self, of: &Segment, range: Range<usize>) {
        if !range.is_empty() {
            self.segments.push(Segment { start: self.masked.len() as u32, len: range.len() as u32, ..*of });
            self.masked.extend(&self.tokens[range]);
        }
    }

    fn control(&mut self, role: Role, id: u32, loss_weight: f32) {
        self.segments.push(Segment { start: self.masked.len() as u32, len: 1, modality: Modality::Control, role, loss_weight });
        self.masked.push(id);
    }
}
