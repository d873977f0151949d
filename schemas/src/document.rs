//! Documents: training records of tokens with typed segments, and the one place that knows their grammar.
//!
//! ```text
//! document := </s> part (<break> part)* tail? </s>          neighbours in a pack share the boundary token
//! part     := text tokens | image tokens, with <sentinel:i> where a span was masked
//! tail     := (<sentinel:i> span <eoss>)+                    i = 0, 1, … in the order of the body
//! ```
//! A vocabulary with brackets has no break beside an image: `part := text tokens | <image> image tokens </image>`, and a break stands
//! between neighbouring texts alone.
//!
//! Where images have several shapes, the tokens of an image begin with its size, and every row of codes ends with a token: [`image_ids`]. Such
//! tokens belong to the segment of the image.
//!
//! Segments cover all tokens without gap; each has one modality and one role.

mod builder;
mod check;
mod image;
mod prompt;
mod unmask;

pub use builder::DocumentBuilder;
pub use check::check;
pub use image::{ImageCodes, ImageRef, NextInImage, image_ids, image_of, next_in_image};
pub use prompt::{image_prompt, text_prompt, unconditional_image_prompt};
use serde::{Deserialize, Serialize};
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
            /// Name for people.
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
    /// What kind of tokens a segment holds.
    Modality {
        /// Boundary, break, sentinel, span end.
        Control = 0, "control";
        /// Ids of the text tokenizer.
        Text = 1, "text";
        /// Codes of the image tokenizer, and where images have several shapes the tokens that say which.
        Image = 2, "image";
    }
);

byte_enum!(
    /// What a segment is there for.
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
        /// What the task gives: an instruction, a condition image.
        Condition = 5, "condition";
        /// What the task asks for; both sides of a plain pair.
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
    /// Kind of its tokens.
    pub modality: Modality,
    /// What it is there for.
    pub role: Role,
    /// Weight of its tokens as prediction targets, 0 or more.
    pub loss_weight: f32,
}

impl Segment {
    /// Token indices that the segment covers.
    #[must_use]
    pub const fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// A sample that stands in a document as a retrieved one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The retrieved sample.
    pub sample_id: SampleId,
    /// Inner product of both embeddings, -1 to 1.
    pub similarity: f32,
}

/// One training record: a row of [`crate::columns::document`] that was not refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Its id.
    pub document_id: DocumentId,
    /// Sample that it was made of.
    pub sample_id: SampleId,
    /// Task that made it.
    pub task: String,
    /// Split of the sample.
    pub split: Split,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Segments, in order.
    pub segments: Vec<Segment>,
    /// Retrieved samples, in the order in which they stand.
    pub retrieved: Vec<Neighbour>,
    /// Retrieved documents that were drawn before the length policy.
    pub retrieved_wanted: u16,
    /// Spans to mask, or masked.
    pub spans: u16,
}

#[cfg(test)]
mod tests;
