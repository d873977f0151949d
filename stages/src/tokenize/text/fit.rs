//! Fit of byte pairs on texts, in time that grows with the texts but not with their longest run.

use cm3flow_schemas::DynError;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PostProcessorWrapper,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, TokenizerBuilder, Trainer,
};

use super::failed;
use crate::error::Result;

/// Largest size in bytes of the texts of a fit: the library counts pairs in signed 32 bits.
const MAX_FIT_BYTES: usize = i32::MAX as usize;
/// Longest piece in bytes within which pairs are merged: the library's time grows with the square of a piece's length. Words are far
/// shorter, even in scripts without spaces.
const MAX_PIECE_BYTES: usize = 1 << 10;

/// Fits byte-level byte pairs on `texts`: NFC, at most `vocabulary_size` ids, of which the first 256 are bytes. There are fewer ids if no
/// pair occurs twice any more. Returns the bytes of a `tokenizer.json`, the same for any order of the texts, because pairs are taken by
/// count, then by id. No pair crosses the 1,024th byte of a run without spaces, so a token has at most so many bytes.
///
/// # Errors
/// [`StageError::TextTokenizer`](crate::error::StageError::TextTokenizer) if `vocabulary_size` is below 256, if the texts have 2 GiB or
/// more, or if the fit fails.
///
/// # Source
/// Byte-level byte pair encoding: Radford et al. 2019; the implementation is that of the `tokenizers` crate.
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
    trainer.feed(texts.iter(), |text| pieces(text, byte_level)).map_err(failed("cannot fit"))?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed("cannot fit"))?;
    let tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new()
        .with_model(model)
        .with_normalizer(Some(NFC.into()))
        .with_pre_tokenizer(Some(byte_level.into()))
        .with_decoder(Some(byte_level.into()))
        .build()
        .map_err(failed("cannot build"))?;
    tokenizer.to_string(false).map(String::into_bytes).map_err(failed("cannot write"))
}

/// Splits a text into words as the tokenizer does, one character a byte, and long words into pieces.
fn pieces(text: &str, byte_level: ByteLevel) -> Result<Vec<String>, DynError> {
    let mut text = NormalizedString::from(text);
    NFC.normalize(&mut text)?;
    let mut split = PreTokenizedString::from(text);
    byte_level.pre_tokenize(&mut split)?;
    let mut pieces = Vec::new();
    for (word, ..) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
        if word.len() <= MAX_PIECE_BYTES {
            pieces.push(word.to_owned());
            continue;
        }
        let bytes: Vec<char> = word.chars().collect();
        pieces.extend(bytes.chunks(MAX_PIECE_BYTES).map(|piece| piece.iter().collect::<String>()));
    }
    Ok(pieces)
}
