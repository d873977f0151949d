//! Text as tokens: byte pairs fitted here, or any `tokenizer.json`.
//!
//! User text can never give a control token. What a file lists as added, its token for the unknown, and every id outside the
//! [`cm3flow_schemas::vocabulary::Vocabulary`]'s text range is taken out of the model before it is loaded, so that the spelling of
//! such a token is encoded like any other text; what comes out is checked once more. Nor is text lost in silence: ids that do not
//! read back as the text are refused. Where that is exact and where it is not, [`Fidelity`] says.

mod inert;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cm3flow_schemas::vocabulary::NamedToken;
use cm3flow_schemas::{Digest, DynError};
use thiserror::Error;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    Decoder, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
    TokenizerBuilder,
};

use crate::error::{Result, StageError};

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

/// Why a text has no tokens.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum Unrepresentable {
    /// A part of the text has no token.
    #[error("the text tokenizer has no token for a part of the text: {problem}")]
    Unknown {
        /// What the tokenizer says.
        problem: String,
    },
    /// The tokenizer said what is no text.
    #[error("the text tokenizer made id {id} of the text, which is no text")]
    Control {
        /// The id.
        id: u32,
    },
    /// The tokens say something else than the text.
    #[error("the text tokenizer changes the text, for the first time at character {at}")]
    Changed {
        /// Character of the normalized text, from 0.
        at: usize,
    },
}

/// A text tokenizer. Cloning shares it.
#[derive(Clone)]
pub struct TextTokenizer(Arc<Loaded>);

struct Loaded {
    tokenizer: Tokenizer,
    /// Ids that stand for text, with the token that each is.
    tokens: HashMap<u32, String>,
    unknown: Option<u32>,
    size: u32,
    fidelity: Fidelity,
    digest: Digest,
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

/// Most bytes of text that are fitted on: the library counts pairs in 32 bits with a sign.
const MAX_FIT_BYTES: usize = i32::MAX as usize;

/// Fits byte-level byte pairs on `texts`: NFC, at most `vocabulary_size` ids, of which the first 256 are bytes; fewer if no pair is left
/// that stands in the texts twice. Returns the bytes of a `tokenizer.json`, the same for the same texts in any order: pairs are taken by
/// count, then by id.
///
/// # Errors
/// [`StageError::TextTokenizer`] if `vocabulary_size` is below 256, the texts have 2 GiB or more, or fitting fails.
///
/// # Source
/// Byte-level byte pair encoding: Radford et al. 2019; the implementation is the `tokenizers` crate's.
pub fn fit(texts: &[String], vocabulary_size: u32) -> Result<Vec<u8>> {
    let refused = |problem: String| Err(failed("cannot fit")(problem.into()));
    if vocabulary_size < 256 {
        return refused(format!("the vocabulary needs 256 ids for bytes, got {vocabulary_size}"));
    }
    let bytes = texts.iter().fold(0_usize, |sum, text| sum.saturating_add(text.len()));
    if bytes > MAX_FIT_BYTES {
        return refused(format!("the texts have {bytes} bytes, at most {MAX_FIT_BYTES} are fitted on; lower fit.max_samples"));
    }
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocabulary_size as usize)
        .show_progress(false)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC.into()))
        .with_pre_tokenizer(Some(byte_level.into()))
        .with_decoder(Some(byte_level.into()))
        .build()
        .map_err(failed("cannot build"))?;
    tokenizer.train(&mut trainer, texts.iter()).map_err(failed("cannot fit"))?;
    tokenizer.to_string(false).map(String::into_bytes).map_err(failed("cannot write"))
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
        let inert::Prepared { size, unknown, fidelity, .. } = prepared;
        Ok(Self(Arc::new(Loaded { tokenizer, tokens, unknown, size, fidelity, digest: Digest::of(json) })))
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
        let token = |id| self.0.tokens.get(id).map_or("\u{fffd}", String::as_str).to_owned();
        let tokens: Vec<String> = ids.iter().map(token).collect();
        match self.0.tokenizer.get_decoder() {
            // Some decoders count on a first token.
            _ if tokens.is_empty() => Ok(String::new()),
            Some(decoder) => decoder.decode(tokens).map_err(failed("cannot decode")),
            None => Ok(tokens.join(" ")),
        }
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
