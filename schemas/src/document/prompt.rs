//! Prompts: beginnings of documents, by the grammar of whole ones, that a model continues.
//!
//! # Source
//! Prompts with sentinels: CM3 paper, section 2, <https://arxiv.org/abs/2201.07520>. Without sentinels, a prompt is a plain prefix, as in
//! Chameleon.

use crate::document::{ImageRef, image_ids};
use crate::error::VocabularyError;
use crate::vocabulary::Vocabulary;

/// Returns the prompt for the image of a text, which is given as ids of the text tokenizer: `</s> text <break>`.
///
/// # Errors
/// [`VocabularyError::OutOfRange`] for an id outside the text range.
pub fn image_prompt(vocabulary: &Vocabulary, text: &[u32]) -> Result<Vec<u32>, VocabularyError> {
    Ok([vec![vocabulary.boundary], vocabulary.text_ids(text)?, vec![opener(vocabulary)]].concat())
}

/// Returns the prompt for any image: `</s> <sentinel:0> <break>`, or `</s> <break>` without sentinels.
#[must_use]
pub fn unconditional_image_prompt(vocabulary: &Vocabulary) -> Vec<u32> {
    let mut prompt = vec![vocabulary.boundary];
    prompt.extend(first_sentinel(vocabulary));
    prompt.push(opener(vocabulary));
    prompt
}

/// Returns the prompt for a text about an image, which is given as codes: `</s> <sentinel:0> <break> image <sentinel:0>`, or
/// `</s> <break> image <break>` without sentinels.
///
/// # Errors
/// As [`image_ids`].
pub fn text_prompt<'i>(vocabulary: &Vocabulary, image: impl Into<ImageRef<'i>>) -> Result<Vec<u32>, VocabularyError> {
    let sentinel = first_sentinel(vocabulary);
    let mut prompt = unconditional_image_prompt(vocabulary);
    prompt.extend(image_ids(vocabulary, image.into())?);
    match (vocabulary.image_brackets, sentinel) {
        (Some(brackets), _) => prompt.push(brackets.close),
        (None, None) => prompt.push(vocabulary.break_),
        (None, Some(_)) => {}
    }
    prompt.extend(sentinel);
    Ok(prompt)
}

/// Returns the token before an image: the opening bracket, or a break.
fn opener(vocabulary: &Vocabulary) -> u32 {
    vocabulary.image_brackets.map_or(vocabulary.break_, |brackets| brackets.open)
}

fn first_sentinel(vocabulary: &Vocabulary) -> Option<u32> {
    vocabulary.can_mask().then_some(vocabulary.sentinels.start)
}
