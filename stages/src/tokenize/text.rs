//! Text as byte pairs: fitted here or loaded from any `tokenizer.json`.
//!
//! User text can never give a control token: the added tokens of a loaded tokenizer are left out, and control ids lie outside the
//! text range of the [`cm3flow_schemas::vocabulary::Vocabulary`].

use cm3flow_schemas::{Digest, DynError};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer, TokenizerBuilder};

use crate::error::{Result, StageError};

/// A text tokenizer whose ids are `0..size()`.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    size: u32,
    digest: Digest,
}

fn failed(action: &'static str) -> impl Fn(DynError) -> StageError {
    move |source| StageError::TextTokenizer { action, source }
}

/// Fits byte-level byte pairs on `texts`: NFC, at most `vocabulary_size` ids, of which the first 256 are bytes. Returns the bytes
/// of a `tokenizer.json`, the same for the same texts in the same order.
///
/// # Errors
/// [`StageError::TextTokenizer`] if `vocabulary_size` is below 256 or fitting fails.
///
/// # Source
/// Byte-level byte pair encoding: Radford et al. 2019; the implementation is the `tokenizers` crate's.
pub fn fit(texts: &[String], vocabulary_size: u32) -> Result<Vec<u8>> {
    if vocabulary_size < 256 {
        return Err(failed("cannot fit")(format!("the vocabulary needs 256 ids for bytes, got {vocabulary_size}").into()));
    }
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocabulary_size as usize)
        .show_progress(false)
        .min_frequency(2)
        .initial_alphabet(alphabet.into_iter().collect())
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
    /// Loads a `tokenizer.json`. Its added tokens, special or not, and its post-processor are left out: documents are put together
    /// by the grammar alone, and text must not be able to name a control token.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the file is no tokenizer.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let mut value: serde_json::Value =
            serde_json::from_slice(json).map_err(|error| failed("cannot read tokenizer.json")(error.into()))?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("added_tokens".into(), serde_json::Value::Array(vec![]));
            for left_out in ["post_processor", "truncation", "padding"] {
                fields.insert(left_out.into(), serde_json::Value::Null);
            }
        }
        let tokenizer: Tokenizer = serde_json::from_value(value).map_err(|error| failed("cannot read tokenizer.json")(error.into()))?;
        let largest = tokenizer.get_vocab(false).into_values().max().unwrap_or(0);
        Ok(Self { tokenizer, size: largest + 1, digest: Digest::of(json) })
    }

    /// Number of ids.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Digest of the file that it was loaded from.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Ids of `text`, each below [`Self::size`].
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode_fast(text, false).map_err(failed("cannot encode"))?.get_ids().to_vec())
    }

    /// Text of `ids`; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// [`StageError::TextTokenizer`] if the tokenizer refuses the ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, false).map_err(failed("cannot decode"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus() -> Vec<String> {
        ["a dog runs over a meadow", "a dog sleeps on a meadow", "two dogs run over sand", "a red boat on water"]
            .repeat(3)
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn fitted_bytes_are_reproducible_and_bounded() {
        let first = fit(&corpus(), 300).expect("fitted");
        assert_eq!(first, fit(&corpus(), 300).expect("fitted"));
        let tokenizer = TextTokenizer::from_json(&first).expect("its own file");
        assert!((257..=300).contains(&tokenizer.size()), "{}", tokenizer.size());
        assert!(fit(&corpus(), 255).is_err());
    }

    #[test]
    fn any_text_survives_the_round_trip() {
        let tokenizer = TextTokenizer::from_json(&fit(&corpus(), 300).expect("fitted")).expect("its own file");
        for text in ["a dog", "  leading and trailing  ", "<break></s><sentinel:0>", "\u{0}\u{1b}[31m", "Größe 東京 🦊", "\u{202e}rtl"]
        {
            let ids = tokenizer.encode(text).expect("encodes");
            assert!(ids.iter().all(|id| *id < tokenizer.size()));
            assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
        }
    }

    #[test]
    fn added_tokens_of_a_loaded_file_are_inert() {
        let mut value: serde_json::Value = serde_json::from_slice(&fit(&corpus(), 300).expect("fitted")).expect("json");
        value["added_tokens"] = serde_json::json!([{
            "id": 290, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
        }]);
        let tokenizer = TextTokenizer::from_json(value.to_string().as_bytes()).expect("loads");
        let ids = tokenizer.encode("</s>").expect("encodes");
        assert!(ids.len() > 1, "the control token's spelling must be plain text, got {ids:?}");
        assert_eq!(tokenizer.decode(&ids).expect("decodes"), "</s>");
    }
}
