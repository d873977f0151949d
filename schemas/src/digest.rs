//! Identity by content: BLAKE3 digests of files and records, and 128-bit ids of samples, images and documents.
//!
//! All are printed and stored as lower-case hexadecimal, so any reader of the files can join on them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ParseIdError;

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let refused = || ParseIdError { text: text.to_owned(), expected: $expected };
                let digits = text.as_bytes();
                if digits.len() != 2 * $bytes || digits.iter().any(u8::is_ascii_uppercase) {
                    return Err(refused());
                }
                let mut bytes = [0; $bytes];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| refused())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
                }
                Ok(Self(bytes))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }
    };
}

hex_id!(
    /// BLAKE3-256 of a file's bytes or of a record's canonical bytes.
    Digest, 32, "digest of 64 lower-case hexadecimal digits"
);
hex_id!(
    /// BLAKE3-128 over images with their roles and annotations, sorted; key, address and source have no part in it.
    SampleId, 16, "sample id of 32 lower-case hexadecimal digits"
);
hex_id!(
    /// BLAKE3-128 over the main image's bytes alone.
    ImageId, 16, "image id of 32 lower-case hexadecimal digits"
);
hex_id!(
    /// BLAKE3-128 over a sample id, a task and the number of the record within both.
    DocumentId, 16, "document id of 32 lower-case hexadecimal digits"
);

impl Digest {
    /// Hashes `bytes` as they are: the name of a stored file.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

/// Hasher of parts, each prefixed by its length, under a domain that separates equal parts of different kinds.
#[derive(Debug)]
pub struct PartHasher(blake3::Hasher);

impl PartHasher {
    /// Starts a hash in `domain`, for example `"sample"`.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.part(b"cm3flow/1").part(domain.as_bytes());
        hasher
    }

    /// Adds one part.
    pub fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        self
    }

    /// Returns the 256-bit digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }

    /// Returns the first 128 bits of the digest.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.0.finalize_xof().fill(&mut id);
        id
    }
}

impl ImageId {
    /// Returns the id of the encoded image `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(PartHasher::new("image").part(bytes).id())
    }
}

impl DocumentId {
    /// Returns the id of the `number`-th record that `task` makes of a sample.
    #[must_use]
    pub fn of(sample: SampleId, task: &str, number: u32) -> Self {
        Self::of_variant(sample, task, number, 0)
    }

    /// Returns the id of the same record in variant `variant` of its window. Variant 0 always exists.
    #[must_use]
    pub fn of_variant(sample: SampleId, task: &str, number: u32, variant: u16) -> Self {
        let mut hasher = PartHasher::new("document");
        hasher.part(&sample.0).part(task.as_bytes()).part(&number.to_le_bytes());
        if variant > 0 {
            hasher.part(&variant.to_le_bytes());
        }
        Self(hasher.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        let id = ImageId::of(b"picture");
        assert_eq!(id.to_string().parse::<ImageId>().expect("its own text"), id);
        assert_eq!(serde_json::from_str::<ImageId>(&serde_json::to_string(&id).expect("json")).expect("json"), id);
    }

    #[test]
    fn text_of_another_length_or_alphabet_is_refused() {
        for text in ["", "00", &"g".repeat(32), &"A".repeat(32), &"é".repeat(16)] {
            assert!(text.parse::<SampleId>().is_err(), "{text}");
        }
    }

    #[test]
    fn domains_and_part_boundaries_separate() {
        let ab = PartHasher::new("d").part(b"a").part(b"b").digest();
        assert_ne!(ab, PartHasher::new("d").part(b"ab").digest());
        assert_ne!(ab, PartHasher::new("e").part(b"a").part(b"b").digest());
    }
}
