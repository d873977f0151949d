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

/// Returns the pair with text token 1 and image tokens 8 and 9 masked.
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
        (Modality::Control, Role::SpanEnd, v.span_end.into_iter().collect()),
        (Modality::Control, Role::Sentinel, vec![sentinel(1)]),
        (Modality::Image, Role::Target, vec![image(8), image(9)]),
        (Modality::Control, Role::SpanEnd, v.span_end.into_iter().collect()),
        (Modality::Control, Role::Boundary, vec![v.boundary]),
    ];
    document_of(runs)
}

fn document_of(runs: impl IntoIterator<Item = (Modality, Role, Vec<u32>)>) -> (Vec<u32>, Vec<Segment>) {
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

/// Returns a vocabulary with brackets.
fn bracketed() -> Vocabulary {
    let mut v = vocabulary();
    v.image_brackets = Some(crate::vocabulary::Brackets { open: v.sentinels.end(), close: v.sentinels.end() + 1 });
    v.image_order = (0..v.image.len).rev().collect();
    v.check().expect("free ids");
    v
}

#[test]
fn images_stand_between_brackets_where_there_are_some() {
    let v = bracketed();
    let brackets = v.image_brackets.expect("just set");
    let (open, close, image) = (brackets.open, brackets.close, |code: u32| v.image.start + 9 - code);
    let (tokens, segments) = pair(&v);
    assert_eq!(tokens, [2, 4, 5, 6, open, image(7), image(8), image(9), image(7), close, 2]);
    assert_eq!(check(&tokens, &segments, &v), Ok(()));
    let mut builder = DocumentBuilder::new(&v);
    builder.image(Role::Condition, &[0]).expect("in range");
    builder.text(Role::Condition, &[1]).expect("in range");
    builder.text(Role::Target, &[2]).expect("in range");
    builder.image(Role::Condition, &[3]).expect("in range");
    builder.image(Role::Target, &[4]).expect("in range");
    assert_eq!(builder.finished_len(), 14);
    let (tokens, segments) = builder.finish();
    assert_eq!(tokens, [2, open, image(0), close, 5, v.break_, 6, open, image(3), close, open, image(4), close, 2]);
    assert_eq!(check(&tokens, &segments, &v), Ok(()));
    for (position, id) in [(1, v.break_), (3, v.break_), (3, open), (5, open), (10, close), (12, open)] {
        let mut broken = tokens.clone();
        broken[position] = id;
        let found = check(&broken, &segments, &v);
        assert!(matches!(found, Err(GrammarError::Brackets { .. })), "{id} at {position}: {found:?}");
    }
}

#[test]
fn a_masked_image_stays_between_its_brackets() {
    let v = bracketed();
    let brackets = v.image_brackets.expect("just set");
    let runs = [
        (Modality::Control, Role::Boundary, vec![v.boundary]),
        (Modality::Control, Role::Break, vec![brackets.open]),
        (Modality::Control, Role::Sentinel, vec![v.sentinels.start]),
        (Modality::Control, Role::Break, vec![brackets.close]),
        (Modality::Control, Role::Sentinel, vec![v.sentinels.start]),
        (Modality::Image, Role::Target, vec![v.image.start]),
        (Modality::Control, Role::SpanEnd, v.span_end.into_iter().collect()),
        (Modality::Control, Role::Boundary, vec![v.boundary]),
    ];
    let (tokens, segments) = document_of(runs);
    assert_eq!(check(&tokens, &segments, &v), Ok(()));
    let mut builder = DocumentBuilder::new(&v);
    builder.image(Role::Target, &[9]).expect("in range");
    assert_eq!(unmasked(&tokens, &segments, &v), builder.finish());
    let mut open = tokens;
    open[3] = brackets.open;
    assert!(matches!(check(&open, &segments, &v), Err(GrammarError::Brackets { .. })));
}

#[test]
fn prompts_are_beginnings_of_documents() {
    let v = vocabulary();
    let (tokens, _) = pair(&v);
    assert_eq!(image_prompt(&v, &[0, 1, 2]).expect("in range"), tokens[..5]);
    assert_eq!(unconditional_image_prompt(&v), [v.boundary, v.sentinels.start, v.break_]);
    let of_image = text_prompt(&v, &[1]).expect("in range");
    assert_eq!(of_image, [v.boundary, v.sentinels.start, v.break_, v.image.start + 1, v.sentinels.start]);
    assert!(text_prompt(&v, &[10]).is_err() && image_prompt(&v, &[10]).is_err());

    let plain = Vocabulary { sentinels: crate::vocabulary::IdRange::default(), span_end: None, ..bracketed() };
    let brackets = plain.image_brackets.expect("has some");
    assert_eq!(unconditional_image_prompt(&plain), [plain.boundary, brackets.open]);
    assert_eq!(text_prompt(&plain, &[9]).expect("in range"), [plain.boundary, brackets.open, plain.image.start, brackets.close]);
    assert_eq!(image_prompt(&plain, &[0]).expect("in range"), [plain.boundary, plain.text.start, brackets.open]);
}
