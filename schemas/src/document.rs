//! Documents: training records of tokens with typed segments, and their grammar.
//!
//! ```text
//! document := </s> part (<break> part)* tail? </s>          neighbours in a pack share the boundary token
//! part     := text tokens | image tokens, with <sentinel:i> where a span was masked
//! tail     := (<sentinel:i> span <eoss>)+                    i = 0, 1, … in the order of the body
//! ```
//! A vocabulary with brackets has no break beside an image: `part := text tokens | <image> image tokens </image>`. A break then separates
//! neighbouring texts only.
//!
//! Where images have several shapes, an image begins with its size, and a token ends every row of codes: see [`image_ids`]. Such tokens
//! belong to the segment of the image.
//!
//! Segments cover all tokens without gaps; each has one modality and one role. A text part may have several, without a break between them: its
//! holes, which the task asks for, and what stands around them.

mod builder;
mod check;
mod image;
mod prompt;
mod unmask;

use serde::{Deserialize, Serialize};

pub use builder::{DocumentBuilder, TextPiece};
pub use check::check;
pub use image::{ImageCodes, ImageRef, NextInImage, image_ids, image_of, next_in_image};
pub use prompt::{image_prompt, text_prompt, unconditional_image_prompt};
pub use unmask::unmasked;

use crate::digest::{DocumentId, SampleId};
use crate::sample::Split;

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $value,)+
        }

        impl $name {
            /// Returns the name for people.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> Self {
                value as u8
            }
        }

        impl TryFrom<u8> for $name {
            type Error = String;

            fn try_from(value: u8) -> Result<Self, String> {
                match value {
                    $($value => Ok(Self::$variant),)+
                    _ => Err(format!("{value} is no {}", stringify!($name))),
                }
            }
        }
    };
}

byte_enum!(
    /// Kind of tokens that a segment holds.
    Modality {
        /// Boundary, break, sentinel, span end.
        Control = 0, "control";
        /// Ids of the text tokenizer.
        Text = 1, "text";
        /// Codes of the image tokenizer; where images have several shapes, size and row-end tokens too.
        Image = 2, "image";
    }
);

byte_enum!(
    /// Purpose of a segment.
    Role {
        /// `</s>`.
        Boundary = 0, "boundary";
        /// `<break>`, or a bracket of an image.
        Break = 1, "break";
        /// `<sentinel:i>`.
        Sentinel = 2, "sentinel";
        /// `<eoss>`.
        SpanEnd = 3, "span end";
        /// Part of a retrieved pair.
        Retrieved = 4, "retrieved";
        /// Input of the task: an instruction, a condition image.
        Condition = 5, "condition";
        /// Output of the task; both sides of a plain pair.
        Target = 6, "target";
    }
);

/// A run of tokens of one modality and one role.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// First token, counted from the document's first or, in a pack, from the pack's first.
    pub start: u32,
    /// Number of tokens.
    pub len: u32,
    /// Kind of the tokens.
    pub modality: Modality,
    /// Purpose in the document.
    pub role: Role,
    /// Weight of its tokens as prediction targets, 0 or more.
    pub loss_weight: f32,
}

impl Segment {
    /// Returns the token indices that the segment covers.
    #[must_use]
    pub const fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// A sample that a document retrieved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The retrieved sample.
    pub sample_id: SampleId,
    /// Inner product of both embeddings, -1 to 1.
    pub similarity: f32,
}

/// A training record: a row of [`crate::columns::document`] that was not refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Key of the document.
    pub document_id: DocumentId,
    /// Sample that the document was made of.
    pub sample_id: SampleId,
    /// Task whose template made the document.
    pub task: String,
    /// Split of the sample.
    pub split: Split,
    /// Token ids, both boundaries included.
    pub tokens: Vec<u32>,
    /// Segments, in order, covering all tokens.
    pub segments: Vec<Segment>,
    /// Retrieved samples, in order of appearance.
    pub retrieved: Vec<Neighbour>,
    /// Number of retrieved documents drawn before the length policy.
    pub retrieved_wanted: u16,
    /// Number of spans: drawn by `instruct`, placed by `mask`.
    pub spans: u16,
}

#[cfg(test)]
mod tests;
