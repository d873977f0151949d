//! Maps between tokens of the tokenizers and ids of the vocabulary.

use super::{IdRange, Vocabulary};
use crate::error::VocabularyError;

impl Vocabulary {
    /// Returns the ids of text tokens, in order.
    ///
    /// # Errors
    /// [`VocabularyError::OutOfRange`] with the first token outside the text range.
    pub fn text_ids(&self, tokens: &[u32]) -> Result<Vec<u32>, VocabularyError> {
        let id = |&token: &u32| match token.checked_sub(self.text_first) {
            Some(place) if place < self.text.len => Ok(self.text.start + place),
            _ => {
                Err(VocabularyError::OutOfRange { range: "text".into(), value: token, len: self.text_first.saturating_add(self.text.len) })
            }
        };
        tokens.iter().map(id).collect()
    }

    /// Returns the text tokens of `ids`, in order.
    ///
    /// # Errors
    /// [`VocabularyError::Foreign`] with the first id outside the text range.
    pub fn text_tokens(&self, ids: &[u32]) -> Result<Vec<u32>, VocabularyError> {
        places("text", self.text, ids).map(|place| Ok(self.text_first + place?)).collect()
    }

    /// Returns the ids of codes, in order.
    ///
    /// # Errors
    /// [`VocabularyError::OutOfRange`] with the first code outside the image range.
    pub fn image_ids(&self, codes: &[u32]) -> Result<Vec<u32>, VocabularyError> {
        let place = |code: u32| self.image_order.get(code as usize).copied().unwrap_or(code);
        codes.iter().map(|&code| self.image.id("image", code).map(|_| self.image.start + place(code))).collect()
    }

    /// Returns the codes of image ids, in order.
    ///
    /// # Errors
    /// [`VocabularyError::Foreign`] with the first id outside the image range.
    pub fn image_codes(&self, ids: &[u32]) -> Result<Vec<u32>, VocabularyError> {
        let mut codes: Vec<u32> = places("image", self.image, ids).collect::<Result<_, _>>()?;
        if !self.image_order.is_empty() {
            let mut by_place = vec![0; self.image_order.len()];
            self.image_order.iter().zip(0..).for_each(|(place, code)| by_place[*place as usize] = code);
            codes.iter_mut().for_each(|place| *place = by_place[*place as usize]);
        }
        Ok(codes)
    }

    /// Checks that the order of the codes, if there is one, is a permutation.
    pub(super) fn check_order(&self) -> Result<(), VocabularyError> {
        if self.image_order.is_empty() {
            return Ok(());
        }
        let (len, places) = (self.image.len as usize, self.image_order.len());
        let refused = |problem: String| Err(VocabularyError::Order { problem });
        if places != len {
            return refused(format!("it has {places} codes, the image range {len}"));
        }
        let mut taken = vec![false; len];
        for (code, &place) in self.image_order.iter().enumerate() {
            match taken.get_mut(place as usize) {
                None => return refused(format!("code {code} has place {place} of {len}")),
                Some(true) => return refused(format!("code {code} has place {place}, which another code has")),
                Some(taken) => *taken = true,
            }
        }
        Ok(())
    }
}

/// Returns the places of `ids` in `range`.
fn places<'i>(name: &'i str, range: IdRange, ids: &'i [u32]) -> impl Iterator<Item = Result<u32, VocabularyError>> + 'i {
    ids.iter().map(
        move |&id| {
            if range.contains(id) { Ok(id - range.start) } else { Err(VocabularyError::Foreign { range: name.to_owned(), id }) }
        },
    )
}

/// Serialization of numbers as one line of text: a table of thousands stays one line in pretty-printed JSON.
pub(super) mod numbers {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(numbers: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
        let words: Vec<String> = numbers.iter().map(u32::to_string).collect();
        serializer.serialize_str(&words.join(" "))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = |word: &str| word.parse().map_err(|_| D::Error::custom(format!("{word:?} is no number of 0 to 4294967295")));
        text.split_ascii_whitespace().map(number).collect()
    }
}
