//! The grammar of documents, masked and unmasked.

use super::*;
use crate::error::GrammarError;
use crate::vocabulary::{Vocabulary, VocabularySizes};

fn vocabulary() -> Vocabulary {
    Vocabulary::try_new("test", &VocabularySizes { text: 10, image: 10, sentinels: 3, total: None }).expect("small")
}

fn pair(vocabulary: &Vocabulary) -> (Vec<u32>, Vec<Segment>) {
    let mut builder = DocumentBuilder::new(vocabulary);
    builder.text(Role::Target, &[0, 1, 2]).expect("in range");
    builder.image(Role::Target, &[7, 8, 9, 7]).expect("in range");
    builder.finish()
}

/// The pair with text token 1 and image tokens 8 and 9 masked.
fn masked(vocabulary: &Vocabulary) -> (Vec<u32>, Vec<Segment>) {
    let v = vocabulary;
    let (text, image, sentinel) = (|id| v.text.start + id, |code| v.image.start + code, |number| v.sentinels.start + number);
    let runs = [
        (Modality::Control, Role::Boundary, vec![v.boundary]),
        (Modality::Text, Role::Target, vec![text(0)]),
        (Modality::Control, Role::Sentinel, vec![sentinel(0)]),
        (Modality::Text, Role::Target, vec![text(2)]),
        (Modality::Control, Role::Break, vec![v.break_]),
        (Modality::Image, Role::Target, vec![image(7)]),
        (Modality::Control, Role::Sentinel, vec![sentinel(1)]),
        (Modality::Image, Role::Target, vec![image(7)]),
        (Modality::Control, Role::Sentinel, vec![sentinel(0)]),
        (Modality::Text, Role::Target, vec![text(1)]),
        (Modality::Control, Role::SpanEnd, vec![v.span_end]),
        (Modality::Control, Role::Sentinel, vec![sentinel(1)]),
        (Modality::Image, Role::Target, vec![image(8), image(9)]),
        (Modality::Control, Role::SpanEnd, vec![v.span_end]),
        (Modality::Control, Role::Boundary, vec![v.boundary]),
    ];
    let (mut tokens, mut segments) = (Vec::new(), Vec::new());
    for (modality, role, ids) in runs {
        segments.push(Segment { start: tokens.len() as u32, len: ids.len() as u32, modality, role, loss_weight: 1.0 });
        tokens.extend(ids);
    }
    (tokens, segments)
}

#[test]
fn built_pair_has_boundaries_and_one_break() {
    let v = vocabulary();
    let (tokens, segments) = pair(&v);
    assert_eq!(tokens, [2, 4, 5, 6, v.break_, 21, 22, 23, 21, 2]);
    assert_eq!(check(&tokens, &segments, &v), Ok(()));
}

#[test]
fn ids_outside_their_range_are_refused() {
    let v = vocabulary();
    assert!(DocumentBuilder::new(&v).text(Role::Target, &[10]).is_err());
    assert!(DocumentBuilder::new(&v).image(Role::Target, &[10]).is_err());
}

#[test]
fn unmasking_restores_the_pair() {
    let v = vocabulary();
    let (tokens, segments) = masked(&v);
    assert_eq!(check(&tokens, &segments, &v), Ok(()));
    assert_eq!(unmasked(&tokens, &segments, &v), pair(&v));
}

#[test]
fn broken_documents_are_named() {
    let v = vocabulary();
    let (tokens, segments) = masked(&v);
    let mut no_end = tokens.clone();
    *no_end.last_mut().expect("not empty") = v.pad;
    assert!(matches!(check(&no_end, &segments, &v), Err(GrammarError::Boundary { .. })));
    assert!(matches!(check(&tokens, &segments[..4], &v), Err(GrammarError::Coverage { .. })));
    let mut image_as_text = tokens.clone();
    image_as_text[1] = v.image.start;
    assert!(matches!(check(&image_as_text, &segments, &v), Err(GrammarError::Modality { position: 1, .. })));
    let mut swapped = tokens;
    swapped[2] = v.sentinels.start + 1;
    assert!(matches!(check(&swapped, &segments, &v), Err(GrammarError::Sentinel { .. })));
    assert!(check(&[], &[], &v).is_err());
}
