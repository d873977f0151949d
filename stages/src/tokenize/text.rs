//! Text as tokens: byte pairs fitted here, or any `tokenizer.json`.
//!
//! User text can never give a control token. What a file lists as added, its token for the unknown, and every id outside the
//! [`cm3flow_schemas::vocabulary::Vocabulary`]'s text range is taken out of the model before it is loaded, so that the spelling of
//! such a token is encoded like any other text; what comes out is checked once more. Nor is text lost in silence: ids that do not
//! read back as the text are refused. Where that is exact and where it is not, [`Fidelity`] says.

mod fit;
mod inert;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cm3flow_schemas::vocabulary::NamedToken;
use cm3flow_schemas::{Digest, DynError};
use tokenizers::normalizers::NFC;
use tokenizers::{Decoder, NormalizedString, Normalizer, Tokenizer};

use crate::error::{Result, StageError, Unrepresentable};
pub use fit::fit;

/// How a text comes back from its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// As it was.
    Exact,
    /// In Unicode's normal form C.
    Composed,
    /// As the tokenizer's own normalizer makes it, white space aside: lower case, without accents, words apart, whatever the file says.
    Normalized,
}

/// A text tokenizer. Cloning shares it.
#[derive(Clone)]
pub struct TextTokenizer(Arc<Loaded>);

struct Loaded {
    tokenizer: Tokenizer,
    /// Ids that stand for text, with the token that each is.
    tokens: HashMap<u32, String>,
    word_end: Option<WordEnd>,
    unknown: Option<u32>,
    size: u32,
    fidelity: Fidelity,
    digest: Digest,
}

/// Mark behind the last token of a word, for decoders that leave it there.
struct WordEnd {
    mark: String,
    /// A space as the decoder reads it.
    space: &'static str,
}

impl fmt::Debug for TextTokenizer {
    /// Leaves out tens of thousands of tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loaded { size, fidelity, digest, .. } = &*self.0;
        f.debug_struct("TextTokenizer").field("size", size).field("fidelity", fidelity).field("digest", digest).finish_non_exhaustive()
    }
}

fn failed(action: &'static str) -> impl Fn(DynError) -> StageError {
    move |source| StageError::TextTokenizer { action, source }
}

impl TextTokenizer {
    /// Loads a `tokenizer.json`. Its added tokens, special or not, are left out, and so are its post-processor and its dropout:
    /// documents are put together by the grammar alone, and text must not be able to name a control token.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::within(json, 0..u32::MAX)
    }

    /// Loads a `tokenizer.json` as [`Self::from_json`] does, and leaves out all ids but those `within`.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn within(json: &[u8], within: Range<u32>) -> Result<Self> {
        let unreadable = |error: serde_json::Error| failed("cannot read tokenizer.json")(error.into());
        let value = serde_json::from_slice(json).map_err(unreadable)?;
        let prepared = inert::prepare(value, &within).map_err(|problem| failed("cannot read tokenizer.json")(problem.into()))?;
        let tokenizer: Tokenizer = serde_json::from_value(prepared.json).map_err(unreadable)?;
        // What was left out has no name any more, or an empty one.
        let named = tokenizer.get_vocab(false).into_iter().filter(|(name, _)| !name.is_empty());
        let tokens = named.map(|(name, id)| (id, name)).collect();
        let inert::Prepared { size, unknown, word_end, fidelity, .. } = prepared;
        Ok(Self(Arc::new(Loaded { tokenizer, tokens, word_end, unknown, size, fidelity, digest: Digest::of(json) })))
    }

    /// All tokens that a `tokenizer.json` names, by ascending id.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn named_tokens(json: &[u8]) -> Result<Vec<NamedToken>> {
        let value = serde_json::from_slice(json).map_err(|error| failed("cannot read tokenizer.json")(error.into()))?;
        inert::named_tokens(&value).map_err(|problem| failed("cannot read tokenizer.json")(problem.into()))
    }

    /// One more than the largest id of the model, whether or not that stands for text.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.0.size
    }

    /// How a text comes back.
    #[must_use]
    pub fn fidelity(&self) -> Fidelity {
        self.0.fidelity
    }

    /// Digest of the file that it was loaded from.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Ids of `text`, each below [`Self::size`], none of a control token. They read back as the text, up to [`Self::fidelity`].
    ///
    /// # Errors
    /// [`Unrepresentable`] if there are no such ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Unrepresentable> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let unknown = |error: DynError| Unrepresentable::Unknown { problem: error.to_string() };
        let ids = self.0.tokenizer.encode_fast(text, false).map_err(unknown)?.get_ids().to_vec();
        match ids.iter().find(|id| !self.0.tokens.contains_key(id)) {
            Some(&id) if self.0.unknown == Some(id) => {
                return Err(Unrepresentable::Unknown { problem: format!("it says unknown, id {id}") });
            }
            Some(&id) => return Err(Unrepresentable::Control { id }),
            None => {}
        }
        // A normalizer may leave nothing of a text, but that is no text any more.
        if ids.is_empty() && !text.trim().is_empty() {
            return Err(Unrepresentable::Changed { at: 0 });
        }
        let decoded = self.decode(&ids).map_err(|error| Unrepresentable::Unknown { problem: error.to_string() })?;
        match self.first_difference(text, &decoded).map_err(unknown)? {
            None => Ok(ids),
            Some(at) => Err(Unrepresentable::Changed { at }),
        }
    }

    /// Text of `ids`. What is no UTF-8, and ids that stand for no text, become replacement characters.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the tokenizer refuses the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let name = |id| self.0.tokens.get(id).map_or("\u{fffd}", String::as_str);
        // Some decoders count on a first token.
        let Some(last) = ids.last() else { return Ok(String::new()) };
        let decoder = self.0.tokenizer.get_decoder();
        let Some(WordEnd { mark, space }) = &self.0.word_end else {
            let tokens: Vec<String> = ids.iter().map(|id| name(id).to_owned()).collect();
            return match decoder {
                Some(decoder) => decoder.decode(tokens).map_err(failed("cannot decode")),
                None => Ok(tokens.join(" ")),
            };
        };
        let with_space = |id| name(id).strip_suffix(mark).map_or_else(|| name(id).to_owned(), |token| format!("{token}{space}"));
        let tokens: Vec<String> = ids.iter().map(with_space).collect();
        let mut text = match decoder {
            Some(decoder) => decoder.decode(tokens).map_err(failed("cannot decode"))?,
            None => tokens.concat(),
        };
        // No space follows the last word.
        if name(last).ends_with(mark) && text.ends_with(' ') {
            text.pop();
        }
        Ok(text)
    }

    /// First character in which `decoded` is not what `text` should come back as.
    fn first_difference(&self, text: &str, decoded: &str) -> Result<Option<usize>, DynError> {
        match self.0.fidelity {
            Fidelity::Exact => Ok(difference(text, decoded)),
            Fidelity::Composed => Ok(difference(&normalized(&NFC, text)?, decoded)),
            Fidelity::Normalized => {
                let [expected, found] = [text, decoded].map(|text| match self.0.tokenizer.get_normalizer() {
                    Some(normalizer) => normalized(normalizer, text),
                    None => Ok(text.to_owned()),
                });
                // `▁` is how normalizers write a space.
                let solid = |text: String| text.replace(|c: char| c.is_whitespace() || c == '▁', "");
                Ok(difference(&solid(expected?), &solid(found?)))
            }
        }
    }
}

fn normalized(normalizer: &impl Normalizer, text: &str) -> Result<String, DynError> {
    let mut text = NormalizedString::from(text);
    normalizer.normalize(&mut text)?;
    Ok(text.get().to_owned())
}

fn difference(expected: &str, found: &str) -> Option<usize> {
    if expected == found {
        return None;
    }
    let common = expected.chars().zip(found.chars()).position(|(a, b)| a != b);
    Some(common.unwrap_or_else(|| expected.chars().count().min(found.chars().count())))
}

#[cfg(test)]
mod tests;
