//! Which id means what: ranges by name, control tokens by role. Nothing else in cm3flow knows an id.

use serde::{Deserialize, Serialize};

use crate::error::VocabularyError;

/// Width of a stored token id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenWidth {
    /// Up to 65,536 ids.
    U16,
    /// More.
    U32,
}

/// A run of ids: `start..start + len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// First id.
    pub start: u32,
    /// Number of ids.
    pub len: u32,
}

impl IdRange {
    /// Whether `id` is in the range.
    #[must_use]
    pub const fn contains(&self, id: u32) -> bool {
        id >= self.start && id - self.start < self.len
    }

    /// One past the last id.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.start + self.len
    }

    /// Id of the `value`-th member; `name` is for the error.
    ///
    /// # Errors
    /// [`VocabularyError::OutOfRange`].
    pub fn id(&self, name: &str, value: u32) -> Result<u32, VocabularyError> {
        if value < self.len {
            Ok(self.start + value)
        } else {
            Err(VocabularyError::OutOfRange { range: name.to_owned(), value, len: self.len })
        }
    }
}

/// The ids of a model that reads and writes text and images.
///
/// # Source
/// Ids 0 to 3 and the order of the specials behind the base vocabulary: metaseq's `cm3` branches. Sizes of `cm3leon`: CM3Leon
/// paper, section 2.1, <https://arxiv.org/abs/2309.02591>.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Name of the preset, or the user's own.
    pub name: String,
    /// Number of ids, reserved ones included.
    pub size: u32,
    /// `<s>`.
    pub begin: u32,
    /// `<pad>`: fills a pack, never carries loss.
    pub pad: u32,
    /// `</s>`: opens and closes every document.
    pub boundary: u32,
    /// `<unk>`: never written.
    pub unknown: u32,
    /// `<break>`: stands at every change of modality.
    pub break_: u32,
    /// `<eoss>`: ends an infilled span.
    pub span_end: u32,
    /// `<sentinel:i>`: a masked span.
    pub sentinels: IdRange,
    /// Ids of the text tokenizer, shifted.
    pub text: IdRange,
    /// Codes of the image tokenizer, shifted.
    pub image: IdRange,
}

/// Sizes from which a vocabulary is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocabularySizes {
    /// Ids of the text tokenizer.
    pub text: u32,
    /// Codes of the image tokenizer.
    pub image: u32,
    /// Sentinels.
    pub sentinels: u32,
    /// Total number of ids; `None` for the smallest multiple of 64 that holds all.
    pub total: Option<u32>,
}

impl Vocabulary {
    /// Lays out basics, text, image, break, span end, sentinels, in this order.
    ///
    /// # Errors
    /// [`VocabularyError::TooLarge`] if a given total is too small.
    pub fn try_new(name: &str, sizes: &VocabularySizes) -> Result<Self, VocabularyError> {
        let text = IdRange { start: 4, len: sizes.text };
        let image = IdRange { start: text.end(), len: sizes.image };
        let sentinels = IdRange { start: image.end() + 2, len: sizes.sentinels };
        let vocabulary = Self {
            name: name.to_owned(),
            size: sizes.total.unwrap_or_else(|| sentinels.end().next_multiple_of(64)),
            begin: 0,
            pad: 1,
            boundary: 2,
            unknown: 3,
            break_: image.end(),
            span_end: image.end() + 1,
            sentinels,
            text,
            image,
        };
        vocabulary.check()?;
        Ok(vocabulary)
    }

    /// The paper's sizes: 56,320 ids of text with the four basics, 8,192 codes, 1,024 reserved, of which 512 are sentinels.
    #[must_use]
    pub fn cm3leon() -> Self {
        let sizes = VocabularySizes { text: 56_316, image: 8_192, sentinels: 512, total: Some(65_536) };
        Self::try_new("cm3leon", &sizes).expect("the paper's sizes add up")
    }

    /// Checks that no two ranges overlap and that all end within the size.
    ///
    /// # Errors
    /// [`VocabularyError::Overlap`] or [`VocabularyError::TooLarge`].
    pub fn check(&self) -> Result<(), VocabularyError> {
        let single = |start| IdRange { start, len: 1 };
        let mut ranges = vec![
            ("<s>", single(self.begin)),
            ("<pad>", single(self.pad)),
            ("</s>", single(self.boundary)),
            ("<unk>", single(self.unknown)),
            ("<break>", single(self.break_)),
            ("<eoss>", single(self.span_end)),
            ("sentinels", self.sentinels),
            ("text", self.text),
            ("image", self.image),
        ];
        ranges.retain(|(_, range)| range.len > 0);
        ranges.sort_by_key(|(_, range)| range.start);
        for pair in ranges.windows(2) {
            let [(first, low), (second, high)] = pair else { unreachable!("windows of two") };
            if high.start < low.end() {
                return Err(VocabularyError::Overlap { first: (*first).into(), second: (*second).into(), id: high.start });
            }
        }
        match ranges.iter().find(|(_, range)| range.end() > self.size) {
            Some((name, range)) => Err(VocabularyError::TooLarge { range: (*name).into(), end: range.end(), size: self.size }),
            None => Ok(()),
        }
    }

    /// Checks that `other` is this vocabulary.
    ///
    /// # Errors
    /// [`VocabularyError::Different`] with the first field that is not.
    pub fn check_same(&self, other: &Self) -> Result<(), VocabularyError> {
        let fields = |vocabulary: &Self| match serde_json::to_value(vocabulary) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => unreachable!("a vocabulary serializes to an object"),
        };
        let theirs = fields(other);
        match fields(self).into_iter().find(|(name, value)| *name != "name" && theirs.get(name) != Some(value)) {
            Some((name, value)) => {
                Err(VocabularyError::Different { ours: value.to_string(), theirs: theirs[&name].to_string(), field: name })
            }
            None => Ok(()),
        }
    }

    /// Width in which ids are stored.
    #[must_use]
    pub const fn width(&self) -> TokenWidth {
        if self.size <= 1 << 16 { TokenWidth::U16 } else { TokenWidth::U32 }
    }

    /// How people write the control token `id`; `None` for text, image and reserved ids.
    #[must_use]
    pub fn control_name(&self, id: u32) -> Option<String> {
        let names = [
            (self.begin, "<s>"),
            (self.pad, "<pad>"),
            (self.boundary, "</s>"),
            (self.unknown, "<unk>"),
            (self.break_, "<break>"),
            (self.span_end, "<eoss>"),
        ];
        if self.sentinels.contains(id) {
            return Some(format!("<sentinel:{}>", id - self.sentinels.start));
        }
        names.iter().find(|(known, _)| *known == id).map(|(_, name)| (*name).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cm3leon_fills_sixteen_bits() {
        let vocabulary = Vocabulary::cm3leon();
        assert_eq!((vocabulary.size, vocabulary.image.start, vocabulary.break_), (65_536, 56_320, 64_512));
        assert_eq!(vocabulary.width(), TokenWidth::U16);
    }

    #[test]
    fn overlap_and_overflow_are_named() {
        let mut vocabulary = Vocabulary::cm3leon();
        vocabulary.image.start -= 1;
        assert_eq!(vocabulary.check(), Err(VocabularyError::Overlap { first: "text".into(), second: "image".into(), id: 56_319 }));
        let sizes = VocabularySizes { text: 100, image: 100, sentinels: 4, total: Some(200) };
        assert!(matches!(Vocabulary::try_new("small", &sizes), Err(VocabularyError::TooLarge { .. })));
    }

    #[test]
    fn differing_vocabularies_say_where() {
        let sizes = VocabularySizes { text: 100, image: 100, sentinels: 4, total: None };
        let one = Vocabulary::try_new("one", &sizes).expect("small");
        let two = Vocabulary::try_new("two", &VocabularySizes { image: 101, ..sizes }).expect("small");
        let error = one.check_same(&two).expect_err("image ranges differ");
        assert!(error.to_string().contains("differ in"), "{error}");
        assert!(one.check_same(&Vocabulary { name: "other".into(), ..one.clone() }).is_ok());
    }
}
