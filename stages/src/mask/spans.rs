//! Random spans of a document.

use std::ops::Range;

use cm3flow_schemas::document::Segment;
use cm3flow_schemas::random::Draws;

use super::plan::parts;

/// Number of attempts for a single span; only a very short document needs more than a few.
const SINGLE_TRIES: usize = 32;

/// Draws up to `count` disjoint, non-empty spans, sorted. A single span lies between two uniform cut points behind the first token. For
/// more spans, `count` squared candidates are drawn, and each that overlaps no earlier one is kept. A span never crosses a break: it is
/// clipped to the part that it overlaps most.
///
/// # Source
/// metaseq's `cm3_dataset`; clipping: CM3Leon paper, section 2.2.
pub(super) fn choose(segments: &[Segment], count: usize, draws: &mut Draws) -> Vec<Range<usize>> {
    let Some(last) = segments.last() else { return Vec::new() };
    let end = last.range().start;
    if end <= 1 || count == 0 {
        return Vec::new();
    }
    let tries = if count == 1 { SINGLE_TRIES } else { count * count };
    let mut chosen: Vec<Range<usize>> = Vec::with_capacity(count);
    for _ in 0..tries {
        let span = clip(candidate(end, draws), segments);
        let overlaps = |other: &Range<usize>| span.start < other.end && other.start < span.end;
        if !span.is_empty() && !chosen.iter().any(overlaps) {
            chosen.push(span);
            if chosen.len() == count {
                break;
            }
        }
    }
    chosen.sort_by_key(|span| span.start);
    chosen
}

/// Draws a span within `1..end` between two uniform cut points; empty if they are equal.
fn candidate(end: usize, draws: &mut Draws) -> Range<usize> {
    let mut cut = || 1 + draws.index(end);
    let (a, b) = (cut(), cut());
    a.min(b)..a.max(b)
}

/// Returns what `span` has in common with the text or image that it overlaps most; the first of equals.
pub(super) fn clip(span: Range<usize>, segments: &[Segment]) -> Range<usize> {
    let mut best = 0..0;
    for part in parts(segments) {
        let range = part.range();
        let common = span.start.max(range.start)..span.end.min(range.end);
        if common.len() > best.len() {
            best = common;
        }
    }
    best
}
