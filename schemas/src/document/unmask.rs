//! Inverse of CM3 masking: puts the spans of the tail back at their sentinels.

use crate::document::{Role, Segment};
use crate::vocabulary::Vocabulary;

/// Returns tokens and segments of the document before masking. Neighbouring runs of one part are joined again.
///
/// The document must satisfy [`crate::document::check()`].
#[must_use]
pub fn unmasked(tokens: &[u32], segments: &[Segment], vocabulary: &Vocabulary) -> (Vec<u32>, Vec<Segment>) {
    let Some(tail) = tail_start(tokens, vocabulary) else {
        return (tokens.to_vec(), segments.to_vec());
    };
    let tail_segments: Vec<&Segment> = segments.iter().filter(|segment| segment.start as usize >= tail).collect();
    // In the tail, a sentinel precedes each span and a span end follows it.
    let spans: Vec<&[&Segment]> = tail_segments.split(|segment| segment.role == Role::SpanEnd).filter(|span| span.len() > 1).collect();
    let mut out = Joined::default();
    for segment in segments.iter().filter(|segment| (segment.start as usize) < tail) {
        if segment.role == Role::Sentinel {
            let number = (tokens[segment.start as usize] - vocabulary.sentinels.start) as usize;
            spans[number][1..].iter().for_each(|run| out.push(run, &tokens[run.range()]));
        } else {
            out.push(segment, &tokens[segment.range()]);
        }
    }
    if let Some(closing) = segments.last() {
        out.push(closing, &tokens[closing.range()]);
    }
    (out.tokens, out.segments)
}

#[derive(Default)]
struct Joined {
    tokens: Vec<u32>,
    segments: Vec<Segment>,
}

impl Joined {
    fn push(&mut self, run: &Segment, tokens: &[u32]) {
        match self.segments.last_mut() {
            Some(last) if (last.modality, last.role) == (run.modality, run.role) => last.len += run.len,
            _ => self.segments.push(Segment { start: self.tokens.len() as u32, ..*run }),
        }
        self.tokens.extend(tokens);
    }
}

/// Returns the index of the tail's first token, which is the second `<sentinel:0>`; `None` for a document without masks.
pub(super) fn tail_start(tokens: &[u32], vocabulary: &Vocabulary) -> Option<usize> {
    let first_sentinel = |position: &usize| vocabulary.sentinels.len > 0 && tokens[*position] == vocabulary.sentinels.start;
    (0..tokens.len()).filter(first_sentinel).nth(1)
}
