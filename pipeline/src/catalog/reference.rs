//! Names of versions as people write them: a number, a tag, or `latest`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name of a tag, in characters.
const MAX_TAG_LEN: usize = 64;
/// Name of the version with the highest number; no tag may have it.
const LATEST: &str = "latest";

/// Name of a tag: a letter, then letters, digits, `.`, `_` and `-`, 64 characters at most, and not `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagName(String);

impl TagName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reference to a version. Commands take the latest without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionRef {
    /// Number, from 1.
    Number(u32),
    /// Tag that names it.
    Tag(TagName),
    /// Version with the highest number.
    Latest,
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Tag(tag) => write!(f, "{tag}"),
            Self::Latest => f.write_str(LATEST),
        }
    }
}

impl From<u32> for VersionRef {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

/// Text that names no version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{text:?} names no version: give a number from 1, `latest`, or a tag (a letter, then letters, digits, `.`, `_` and `-`, {max} at most)",
    max = MAX_TAG_LEN
)]
pub struct ParseVersionError {
    /// Text that was parsed.
    text: String,
}

impl FromStr for TagName {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
        if begins_well && text.chars().all(is_plain) && text.len() <= MAX_TAG_LEN && text != LATEST {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseVersionError { text: text.to_owned() })
        }
    }
}

impl FromStr for VersionRef {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        if text == LATEST {
            return Ok(Self::Latest);
        }
        match text.parse() {
            Ok(number @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self::Number(number)),
            _ => text.parse().map(Self::Tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tags_and_the_latest_are_told_apart() {
        let parse = |text: &str| text.parse::<VersionRef>().expect("a good name");
        assert_eq!(parse("12"), VersionRef::Number(12));
        assert_eq!(parse("latest"), VersionRef::Latest);
        assert!(matches!(parse("good-2026.11_b"), VersionRef::Tag(tag) if tag.as_str() == "good-2026.11_b"));
        for text in ["12", "latest", "v1"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let long = "a".repeat(MAX_TAG_LEN + 1);
        for text in ["", "0", "-1", "+1", "4294967296", "1a", "../a", "a/b", ".a", "é", "a b", "a\n", &long] {
            assert_eq!(text.parse::<VersionRef>(), Err(ParseVersionError { text: text.to_owned() }), "{text:?}");
        }
        assert!("latest".parse::<TagName>().is_err(), "a tag must not hide the latest version");
    }
}
