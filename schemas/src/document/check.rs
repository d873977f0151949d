//! Check of a document against the grammar.

use crate::document::image::check_image;
use crate::document::unmask::tail_start;
use crate::document::{Modality, Role, Segment, unmasked};
use crate::error::GrammarError;
use crate::vocabulary::Vocabulary;

/// Checks boundaries, coverage by segments, ids against modalities, and brackets of images. Each sentinel must stand once in the body and
/// once in the tail. Where images have several shapes, each image must be whole once it is unmasked.
///
/// # Errors
/// [`GrammarError`] for the first broken rule.
pub fn check(tokens: &[u32], segments: &[Segment], vocabulary: &Vocabulary) -> Result<(), GrammarError> {
    for position in [0, tokens.len().saturating_sub(1)] {
        match tokens.get(position) {
            Some(&id) if id == vocabulary.boundary && tokens.len() >= 2 => {}
            other => return Err(GrammarError::Boundary { position, found: other.copied().unwrap_or(vocabulary.unknown) }),
        }
    }
    let mut covered = 0;
    for segment in segments {
        if segment.start as usize != covered || segment.len == 0 || segment.range().end > tokens.len() {
            return Err(GrammarError::Coverage { position: covered });
        }
        covered = segment.range().end;
        let stray = segment.range().find(|&position| !belongs(tokens[position], segment, vocabulary));
        if let Some(position) = stray {
            return Err(GrammarError::Modality { position, id: tokens[position], modality: segment.modality.name() });
        }
    }
    if covered != tokens.len() {
        return Err(GrammarError::Coverage { position: covered });
    }
    let tail_start = tail_start(tokens, vocabulary).unwrap_or(tokens.len());
    check_brackets(tokens, segments, tail_start, vocabulary)?;
    check_sentinels(tokens, tail_start, vocabulary)?;
    check_images(tokens, segments, vocabulary)
}

fn belongs(id: u32, segment: &Segment, vocabulary: &Vocabulary) -> bool {
    match (segment.modality, segment.role) {
        (Modality::Text, _) => vocabulary.text.contains(id),
        (Modality::Image, _) => vocabulary.image.contains(id) || vocabulary.shapes.as_ref().is_some_and(|shapes| shapes.contains(id)),
        (Modality::Control, Role::Boundary) => id == vocabulary.boundary,
        (Modality::Control, Role::Break) => {
            id == vocabulary.break_ || vocabulary.image_brackets.is_some_and(|brackets| id == brackets.open || id == brackets.close)
        }
        (Modality::Control, Role::Sentinel) => vocabulary.sentinels.contains(id),
        (Modality::Control, Role::SpanEnd) => Some(id) == vocabulary.span_end,
        (Modality::Control, _) => false,
    }
}

/// Checks that images of the body stand between brackets, and nothing else does. The tail is exempt: its spans were cut out of the body.
fn check_brackets(tokens: &[u32], segments: &[Segment], tail_start: usize, vocabulary: &Vocabulary) -> Result<(), GrammarError> {
    let Some(brackets) = vocabulary.image_brackets else { return Ok(()) };
    let mut is_inside = false;
    for segment in segments.iter().filter(|segment| (segment.start as usize) < tail_start) {
        let position = segment.start as usize;
        let problem = match (segment.modality, segment.role, is_inside) {
            (Modality::Image, _, false) => Some("an image stands outside of brackets"),
            (Modality::Text, _, true) => Some("text stands inside of brackets"),
            (Modality::Control, Role::Break | Role::Boundary, _) => {
                let was_inside = std::mem::replace(&mut is_inside, tokens[position] == brackets.open);
                let should_be = tokens[position] == brackets.close;
                (was_inside != should_be).then_some("brackets do not come in pairs")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(GrammarError::Brackets { position, problem });
        }
    }
    if is_inside { Err(GrammarError::Brackets { position: tail_start, problem: "an image is not closed" }) } else { Ok(()) }
}

fn check_sentinels(tokens: &[u32], tail_start: usize, vocabulary: &Vocabulary) -> Result<(), GrammarError> {
    let numbers = |tokens: &[u32]| -> Vec<u32> {
        tokens.iter().filter(|id| vocabulary.sentinels.contains(**id)).map(|id| id - vocabulary.sentinels.start).collect()
    };
    let (body, tail) = (numbers(&tokens[..tail_start]), numbers(&tokens[tail_start..]));
    let count = |numbers: &[u32], number: u32| numbers.iter().filter(|n| **n == number).count();
    for number in 0..body.len().max(tail.len()) as u32 {
        let error = GrammarError::Sentinel { number, body: count(&body, number), tail: count(&tail, number) };
        if body.get(number as usize) != Some(&number) || tail.get(number as usize) != Some(&number) {
            return Err(error);
        }
    }
    Ok(())
}

/// Checks sizes, rows and row ends of the images of a document whose sentinels have been checked.
fn check_images(tokens: &[u32], segments: &[Segment], vocabulary: &Vocabulary) -> Result<(), GrammarError> {
    let Some(shapes) = &vocabulary.shapes else { return Ok(()) };
    let (tokens, segments) = unmasked(tokens, segments, vocabulary);
    for segment in segments.iter().filter(|segment| segment.modality == Modality::Image) {
        let broken = |(place, problem)| GrammarError::Image { position: segment.start as usize + place, problem };
        check_image(vocabulary, shapes, &tokens[segment.range()]).map_err(broken)?;
    }
    Ok(())
}
