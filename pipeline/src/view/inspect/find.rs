//! Look-up of ids by their beginnings.

use std::collections::BTreeSet;
use std::fmt::Display;

use crate::error::{PipelineError, Result};

/// Hexadecimal digits of an id.
const DIGITS: usize = 32;
/// Ids that an error lists if several begin alike, at most.
const CANDIDATES: usize = 10;

/// The beginning of an id, or a whole id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix {
    kind: &'static str,
    text: String,
    digits: Vec<u8>,
}

impl Prefix {
    /// Parses the beginning of the id of a `kind`.
    ///
    /// # Errors
    /// [`PipelineError::NoId`].
    pub(crate) fn try_new(kind: &'static str, text: &str) -> Result<Self> {
        let refused = || PipelineError::NoId {
            text: text.to_owned(),
            kind,
            expected: "an id has 32 digits of 0-9 and a-f, or fewer for its beginning",
        };
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| (1..=DIGITS).contains(&digits.len())).ok_or_else(refused)?;
        Ok(Self { kind, text: text.to_owned(), digits })
    }

    /// Checks whether the id `bytes` has this beginning.
    pub(crate) fn begins(&self, bytes: &[u8; DIGITS / 2]) -> bool {
        let digit = |place: usize| if place.is_multiple_of(2) { bytes[place / 2] >> 4 } else { bytes[place / 2] & 15 };
        self.digits.iter().enumerate().all(|(place, wanted)| digit(place) == *wanted)
    }

    /// Checks whether `found` holds so many ids that a search can stop.
    pub(crate) fn is_hopeless<T>(&self, found: &BTreeSet<T>) -> bool {
        found.len() > CANDIDATES
    }

    /// Returns the only id in `found`.
    ///
    /// # Errors
    /// [`PipelineError::UnknownId`] with `hint` if there is none, [`PipelineError::AmbiguousId`] if there are several.
    pub(crate) fn one<T: Copy + Display>(&self, found: &BTreeSet<T>, version: u32, hint: &str) -> Result<T> {
        let mut ids = found.iter();
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(*id),
            (None, _) => Err(PipelineError::UnknownId { kind: self.kind, id: self.text.clone(), version, hint: hint.to_owned() }),
            (Some(_), Some(_)) => {
                let mut candidates: Vec<String> = found.iter().take(CANDIDATES).map(ToString::to_string).collect();
                if self.is_hopeless(found) {
                    candidates.push("and more".into());
                }
                Err(PipelineError::AmbiguousId { kind: self.kind, id: self.text.clone(), candidates })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begins(text: &str) -> bool {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&[0xab, 0x3f]);
        Prefix::try_new("sample", text).expect("digits").begins(&bytes)
    }

    #[test]
    fn beginnings_of_odd_and_even_length_match() {
        assert!(["a", "ab", "ab3", "AB3F", "ab3f0", "ab3f0000000000000000000000000000"].into_iter().all(begins));
        assert!(!["b", "aa", "ab4", "ab3f1"].into_iter().any(begins));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "photo-1", "0x12", &"0".repeat(33), "é"] {
            assert!(matches!(Prefix::try_new("sample", text), Err(PipelineError::NoId { .. })), "{text}");
        }
    }

    #[test]
    fn several_ids_are_named_and_no_more_than_ten() {
        let prefix = Prefix::try_new("sample", "1").expect("digits");
        assert!(matches!(prefix.one(&BTreeSet::<u32>::new(), 3, ""), Err(PipelineError::UnknownId { version: 3, .. })));
        assert_eq!(prefix.one(&BTreeSet::from([12]), 3, "").expect("one"), 12);
        let Err(PipelineError::AmbiguousId { candidates, .. }) = prefix.one(&(100..111).collect(), 3, "") else {
            panic!("eleven ids are several")
        };
        assert_eq!((candidates.len(), candidates[0].as_str(), candidates[10].as_str()), (11, "100", "and more"));
    }
}
