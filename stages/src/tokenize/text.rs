//! Text tokenizer: byte pairs fitted here, or any `tokenizer.json`.
//!
//! User text can never give a control token. Added tokens, the unknown token and all ids outside the text range of the
//! [`cm3flow_schemas::vocabulary::Vocabulary`] are removed from the model before it is loaded. The spelling of such a token is then encoded
//! like any other text, and the output is checked again. Text is not lost silently either: ids that do not decode to the text are refused.
//! [`Fidelity`] states how exact that comparison is.

mod fit;
mod inert;
mod model_ids;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cm3flow_schemas::vocabulary::NamedToken;
use cm3flow_schemas::{Digest, DynError};
use tokenizers::normalizers::NFC;
use tokenizers::{Decoder, NormalizedString, Normalizer, Tokenizer};

pub use fit::fit;

use crate::error::{Result, StageError, Unrepresentable};

/// Form in which a text returns from its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// The text, unchanged.
    Exact,
    /// The text in Unicode's normal form C.
    Composed,
    /// The output of the tokenizer's own normalizer, up to white space: lower case, without accents, split words, or whatever the file
    /// defines.
    Normalized,
}

/// Text tokenizer. Clones share it.
#[derive(Clone)]
pub struct TextTokenizer(Arc<Loaded>);

struct Loaded {
    tokenizer: Tokenizer,
    /// Ids of text, with the token of each.
    tokens: HashMap<u32, String>,
    word_end: Option<WordEnd>,
    unknown: Option<u32>,
    size: u32,
    fidelity: Fidelity,
    digest: Digest,
}

/// Mark behind the last token of a word, for decoders that leave it in place.
struct WordEnd {
    mark: String,
    /// Space in the form that the decoder reads.
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
    /// Loads a `tokenizer.json`, without its added tokens (special or not), its post-processor and its dropout. Only the grammar builds
    /// documents, and text must not be able to name a control token.
    ///
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::within(json, 0..u32::MAX)
    }

    /// Loads a `tokenizer.json` as [`Self::from_json`] does, without the ids outside of `within`.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn within(json: &[u8], within: Range<u32>) -> Result<Self> {
        let unreadable = |error: serde_json::Error| failed("cannot read tokenizer.json")(error.into());
        let value = serde_json::from_slice(json).map_err(unreadable)?;
        let prepared = inert::prepare(value, &within).map_err(|problem| failed("cannot read tokenizer.json")(problem.into()))?;
        let tokenizer: Tokenizer = serde_json::from_value(prepared.json).map_err(unreadable)?;
        // Removed tokens have no name any more, or an empty one.
        let named = tokenizer.get_vocab(false).into_iter().filter(|(name, _)| !name.is_empty());
        let tokens = named.map(|(name, id)| (id, name)).collect();
        let inert::Prepared { size, unknown, word_end, fidelity, .. } = prepared;
        Ok(Self(Arc::new(Loaded { tokenizer, tokens, word_end, unknown, size, fidelity, digest: Digest::of(json) })))
    }

    /// Returns all tokens that a `tokenizer.json` names, by ascending id.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn named_tokens(json: &[u8]) -> Result<Vec<NamedToken>> {
        let value = serde_json::from_slice(json).map_err(|error| failed("cannot read tokenizer.json")(error.into()))?;
        inert::named_tokens(&value).map_err(|problem| failed("cannot read tokenizer.json")(problem.into()))
    }

    /// Returns one more than the model's largest id, whether that is text or not.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.0.size
    }

    /// Returns the form in which texts return from their tokens.
    #[must_use]
    pub fn fidelity(&self) -> Fidelity {
        self.0.fidelity
    }

    /// Returns the digest of the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Returns the ids of `text`, each below [`Self::size`], none of a control token. They decode to the text, up to [`Self::fidelity`].
    ///
    /// # Errors
    /// [`Unrepresentable`] if no such ids exist.
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
        // A normalizer may remove all of a text, but then it is no text any more.
        if ids.is_empty() && !text.trim().is_empty() {
            return Err(Unrepresentable::Changed { at: 0 });
        }
        let decoded = self.decode(&ids).map_err(|error| Unrepresentable::Unknown { problem: error.to_string() })?;
        match self.first_difference(text, &decoded).map_err(unknown)? {
            None => Ok(ids),
            Some(at) => Err(Unrepresentable::Changed { at }),
        }
    }

    /// Returns the text of `ids`. Invalid UTF-8, and ids that are no text, become replacement characters.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the tokenizer refuses the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let name = |id| self.0.tokens.get(id).map_or("\u{fffd}", String::as_str);
        // Some decoders require a first token.
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

    /// Returns the index of the first character where `decoded` differs from the form that `text` should return in.
    fn first_difference(&self, text: &str, decoded: &str) -> Result<Option<usize>, DynError> {
        match self.0.fidelity {
            Fidelity::Exact => Ok(difference(text, decoded)),
            Fidelity::Composed => Ok(difference(&normalized(&NFC, text)?, decoded)),
            Fidelity::Normalized => {
                let [expected, found] = [text, decoded].map(|text| match self.0.tokenizer.get_normalizer() {
                    Some(normalizer) => normalized(normalizer, text),
                    None => Ok(text.to_owned()),
                });
                // Normalizers write a space as `▁`.
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
