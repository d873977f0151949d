//! Vocabulary: the meaning of every token id, as named ranges and control tokens. No other code knows an id.
//!
//! The fields serve two kinds of vocabularies. CM3Leon's puts the ids of its tokenizers behind four basics, and marks every change of
//! modality with `<break>`. Chameleon's takes the ids of its text tokenizer as they are, orders its codes in its own way, and puts each
//! image between two brackets.

mod chameleon;
mod compare;
mod ids;
mod shapes;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use chameleon::NamedToken;
pub use shapes::ImageShapes;

use crate::error::VocabularyError;

/// Width of a stored token id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenWidth {
    /// 16 bits: up to 65,536 ids.
    U16,
    /// 32 bits: more than 65,536 ids.
    U32,
}

/// A run of ids: `start..start + len`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// First id.
    pub start: u32,
    /// Number of ids.
    pub len: u32,
}

impl IdRange {
    /// Checks whether `id` is in the range.
    #[must_use]
    pub const fn contains(&self, id: u32) -> bool {
        id >= self.start && id - self.start < self.len
    }

    /// Returns one past the last id.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.start.saturating_add(self.len)
    }

    /// Returns the id of the `value`-th member; `name` is for the error.
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

/// Tokens before and after every image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Brackets {
    /// Id of the token before an image.
    pub open: u32,
    /// Id of the token after an image.
    pub close: u32,
}

/// Ids of a model that reads and writes text and images.
///
/// # Source
/// Ids 0 to 3 and the order of the specials behind the base vocabulary: metaseq's `cm3` branches. Sizes of `cm3leon`: CM3Leon
/// paper, section 2.1, <https://arxiv.org/abs/2309.02591>. Brackets and names of `chameleon`: Chameleon paper, section 2,
/// <https://arxiv.org/abs/2405.09818>, and the tokenizer that was published with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Name of the preset, or one of your own.
    pub name: String,
    /// Number of ids, reserved ones included.
    pub size: u32,
    /// Id of `<s>`.
    pub begin: u32,
    /// Id of `<pad>`, which fills a pack and has no loss.
    pub pad: u32,
    /// Id of `</s>`, which opens and closes every document.
    pub boundary: u32,
    /// Id of `<unk>`, which is never written.
    pub unknown: u32,
    /// Id of `<break>`, which separates any two parts; where images have brackets, only two parts that are no images.
    pub break_: u32,
    /// Brackets of images. Without them, `<break>` separates images from their neighbours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_brackets: Option<Brackets>,
    /// Id of `<eoss>`, which ends an infilled span. Without it nothing can be masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_end: Option<u32>,
    /// Ids of `<sentinel:i>`, which mark masked spans; none if nothing can be masked.
    pub sentinels: IdRange,
    /// Ids of the text tokenizer, from `text_first` on.
    pub text: IdRange,
    /// Id of the text tokenizer that becomes `text.start`: 0 where ids are shifted, `text.start` where they stay as they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "json-schema", schemars(!skip_serializing_if))]
    pub text_first: u32,
    /// Ids of the image tokenizer's codes.
    pub image: IdRange,
    /// Order of the codes: code `c` has the id `image.start + image_order[c]`. A permutation of the numbers below `image.len`, written as one
    /// line of text; empty for codes in their own order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "ids::numbers")]
    #[cfg_attr(feature = "json-schema", schemars(with = "String"))]
    pub image_order: Vec<u32>,
    /// Shapes of images, with the tokens that express them; left out where all images are squares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shapes: Option<ImageShapes>,
    /// Ids of further modalities' codes, by the modality's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub modalities: BTreeMap<String, IdRange>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Sizes for the layout of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocabularySizes {
    /// Number of ids of the text tokenizer.
    pub text: u32,
    /// Number of codes of the image tokenizer.
    pub image: u32,
    /// Number of sentinels.
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
            image_brackets: None,
            span_end: Some(image.end() + 1),
            sentinels,
            text,
            text_first: 0,
            image,
            image_order: Vec::new(),
            shapes: None,
            modalities: BTreeMap::new(),
        };
        vocabulary.check()?;
        Ok(vocabulary)
    }

    /// Returns the layout of the paper: 56,320 text ids with the four basics, 8,192 codes, and 1,024 reserved ids, of which 512 are
    /// sentinels.
    #[must_use]
    pub fn cm3leon() -> Self {
        let sizes = VocabularySizes { text: 56_316, image: 8_192, sentinels: 512, total: Some(65_536) };
        Self::try_new("cm3leon", &sizes).expect("the paper's sizes add up")
    }

    /// Checks that no two ranges overlap, that all end within the size, and that the order of the codes is a permutation.
    ///
    /// # Errors
    /// [`VocabularyError::Overlap`], [`VocabularyError::TooLarge`], [`VocabularyError::Order`], [`VocabularyError::Modality`] or
    /// [`VocabularyError::Shapes`].
    pub fn check(&self) -> Result<(), VocabularyError> {
        if let Some(name) = self.modalities.keys().find(|name| name.is_empty() || ["text", "image", "sentinels"].contains(&name.as_str())) {
            return Err(VocabularyError::Modality { name: name.clone() });
        }
        self.check_order()?;
        self.shapes.as_ref().map_or(Ok(()), ImageShapes::check)?;
        let ranges = self.named_ranges();
        for pair in ranges.windows(2) {
            let [(first, low), (second, high)] = pair else { unreachable!("windows of two") };
            if high.start < low.end() {
                return Err(VocabularyError::Overlap { first: (*first).into(), second: (*second).into(), id: high.start });
            }
        }
        match ranges.iter().find(|(_, range)| u64::from(range.start) + u64::from(range.len) > u64::from(self.size)) {
            Some((name, range)) => Err(VocabularyError::TooLarge { range: (*name).into(), end: range.end(), size: self.size }),
            None => Ok(()),
        }
    }

    /// Returns every range that has a meaning, by ascending first id, without empty ones.
    fn named_ranges(&self) -> Vec<(&str, IdRange)> {
        let mut ranges: Vec<(&str, IdRange)> =
            self.control_tokens().into_iter().map(|(name, start)| (name, IdRange { start, len: 1 })).collect();
        ranges.extend([("sentinels", self.sentinels), ("text", self.text), ("image", self.image)]);
        ranges.extend(self.shapes.iter().map(|shapes| ("sizes", shapes.sizes)));
        ranges.extend(self.modalities.iter().map(|(name, range)| (name.as_str(), *range)));
        ranges.retain(|(_, range)| range.len > 0);
        ranges.sort_by_key(|(_, range)| range.start);
        ranges
    }

    /// Returns the single control tokens with the names that people use.
    fn control_tokens(&self) -> Vec<(&'static str, u32)> {
        let mut tokens =
            vec![("<s>", self.begin), ("<pad>", self.pad), ("</s>", self.boundary), ("<unk>", self.unknown), ("<break>", self.break_)];
        tokens.extend(self.span_end.map(|id| ("<eoss>", id)));
        tokens.extend(self.image_brackets.into_iter().flat_map(|brackets| [("<image>", brackets.open), ("</image>", brackets.close)]));
        tokens.extend(self.shapes.iter().map(|shapes| ("<eol>", shapes.line_end)));
        tokens
    }

    /// Returns one past the last id that has a meaning.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.named_ranges().iter().map(|(_, range)| range.end()).max().unwrap_or(0)
    }

    /// Checks whether spans can be masked: that takes a span end, and a sentinel beside the first one, which begins prompts.
    #[must_use]
    pub const fn can_mask(&self) -> bool {
        self.span_end.is_some() && self.sentinels.len >= 2
    }

    /// Returns the width of stored ids.
    #[must_use]
    pub const fn width(&self) -> TokenWidth {
        if self.size <= 1 << 16 { TokenWidth::U16 } else { TokenWidth::U32 }
    }

    /// Returns the name that people use for the control token `id`; `None` for text, image and reserved ids.
    #[must_use]
    pub fn control_name(&self, id: u32) -> Option<String> {
        if self.sentinels.contains(id) {
            return Some(format!("<sentinel:{}>", id - self.sentinels.start));
        }
        if let Some(side) = self.shapes.as_ref().and_then(|shapes| shapes.side_of(id)) {
            return Some(format!("<size:{side}>"));
        }
        self.control_tokens().iter().find(|(_, known)| *known == id).map(|(name, _)| (*name).to_owned())
    }
}

#[cfg(test)]
mod tests;
