//! Withdrawal of documents from a pack; the rest stays in place.

use cm3flow_schemas::document::Segment;
use cm3flow_schemas::pack::{Pack, PlacedDocument};
use cm3flow_schemas::vocabulary::Vocabulary;

/// Takes the documents for which `is_gone` holds out of `pack`, and returns them in order. Padding without segments takes their place, so
/// nothing there is predicted. A boundary token that a remaining neighbour shares stays. Tokens, segments and places of the remaining
/// documents stay as they are, and so do their order and the pack's length.
pub fn withdraw(pack: &mut Pack, vocabulary: &Vocabulary, is_gone: impl Fn(&PlacedDocument) -> bool) -> Vec<PlacedDocument> {
    let (gone, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut pack.documents).into_iter().partition(is_gone);
    pack.documents = stay;
    if gone.is_empty() {
        return gone;
    }
    let mut is_held = vec![false; pack.tokens.len()];
    for document in &pack.documents {
        is_held[range(document)].fill(true);
    }
    // No segment exceeds its document, and a shared boundary is a segment of its own.
    pack.segments.retain(|segment: &Segment| is_held[segment.start as usize]);
    for document in &gone {
        for position in range(document).filter(|&position| !is_held[position]) {
            pack.tokens[position] = vocabulary.pad;
        }
    }
    gone
}

fn range(document: &PlacedDocument) -> std::ops::Range<usize> {
    document.start as usize..(document.start + document.len) as usize
}
