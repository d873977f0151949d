//! Traits that stages use: models and stores. Implementations live in `cm3flow-model`, `cm3flow-stages` and `cm3flow`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use crate::document::Modality;
use crate::error::DynError;
use crate::grid::Grid;
use crate::image_input::ImageInputError;
use crate::pack::PackBatch;
use crate::unit::NumericsClass;

/// Identity and shapes of an image tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTokenizerSpec {
    /// Name for people.
    pub name: String,
    /// Digest over configuration and weights.
    pub digest: Digest,
    /// Side of the input square, in pixels.
    pub side_px: u32,
    /// Codes in a row and in a column of the square.
    pub grid: u32,
    /// Number of different codes.
    pub codebook_size: u32,
    /// Length of a codebook vector; 0 if the tokenizer exposes no codebook.
    pub codebook_dim: u32,
    /// Class of machines that compute the same codes, bit by bit.
    pub numerics: NumericsClass,
}

impl ImageTokenizerSpec {
    /// Returns rows and columns of the square.
    #[must_use]
    pub const fn square(&self) -> Grid {
        Grid::square(self.grid)
    }

    /// Returns width and height in pixels of an image of `grid`.
    #[must_use]
    pub const fn size_px(&self, grid: Grid) -> (u32, u32) {
        (self.side_of(grid.columns) as u32, self.side_of(grid.rows) as u32)
    }

    /// Returns the pixels that `codes` codes in a row stand for.
    const fn side_of(&self, codes: u32) -> u64 {
        self.side_px as u64 * codes as u64 / self.grid as u64
    }

    /// Returns the bytes of one fitted image of `grid`: RGB, row-major, interleaved.
    #[must_use]
    pub const fn bytes_of(&self, grid: Grid) -> usize {
        let (width, height) = self.size_px(grid);
        width as usize * height as usize * 3
    }

    /// Returns the number of images of `grid` in `pixels`.
    ///
    /// # Errors
    /// [`ImageInputError::Grid`] for a grid without codes, or so large that no memory holds its images; [`ImageInputError::Pixels`].
    pub fn images_of_pixels(&self, pixels: &[u8], grid: Grid) -> Result<usize, ImageInputError> {
        let (bytes, bytes_per_image) = (pixels.len(), self.possible_bytes_of(grid)?);
        if !bytes.is_multiple_of(bytes_per_image) {
            return Err(ImageInputError::Pixels { bytes, bytes_per_image });
        }
        Ok(bytes / bytes_per_image)
    }

    /// Returns the number of images of `grid` in `codes`.
    ///
    /// # Errors
    /// [`ImageInputError::Grid`] as for [`Self::images_of_pixels`], [`ImageInputError::Codes`], [`ImageInputError::CodeOutOfRange`].
    pub fn images_of_codes(&self, codes: &[u32], grid: Grid) -> Result<usize, ImageInputError> {
        self.possible_bytes_of(grid)?;
        let (codes_per_image, codebook_size) = (grid.codes(), self.codebook_size);
        if !codes.len().is_multiple_of(codes_per_image) {
            return Err(ImageInputError::Codes { codes: codes.len(), codes_per_image });
        }
        match codes.iter().position(|code| *code >= codebook_size) {
            Some(position) => Err(ImageInputError::CodeOutOfRange { position, code: codes[position], codebook_size }),
            None => Ok(codes.len() / codes_per_image),
        }
    }

    /// Returns [`Self::bytes_of`] a grid that images can have.
    fn possible_bytes_of(&self, grid: Grid) -> Result<usize, ImageInputError> {
        let side = |codes| u32::try_from(self.side_of(codes)).ok();
        let bytes = side(grid.columns).zip(side(grid.rows)).map(|(width, height)| u128::from(width) * u128::from(height) * 3);
        match bytes.map(isize::try_from) {
            Some(Ok(bytes)) if bytes > 0 => Ok(bytes.unsigned_abs()),
            _ => Err(ImageInputError::Grid { model: self.name.clone(), takes: "images that have codes and fit into memory", grid }),
        }
    }

    /// Returns the number of codes of one square.
    #[must_use]
    pub const fn codes_per_image(&self) -> usize {
        (self.grid * self.grid) as usize
    }

    /// Returns the bytes of one fitted square: RGB, row-major, interleaved.
    #[must_use]
    pub const fn bytes_per_image(&self) -> usize {
        (self.side_px * self.side_px * 3) as usize
    }
}

/// Converter between fitted images and codes.
///
/// Contract, run for every implementation by `conformance::check_image_tokenizer` (feature `testing`):
/// 1. specification, codebook and abilities never change, and are the same for all tokenizers made alike; sizes in the specification are 1 or
///    more, and the codebook has `codebook_size * codebook_dim` finite values;
/// 2. `n` images give `n` times [`Grid::codes`] codes, each below `codebook_size`; so many codes, each below `codebook_size`, give `n` images
///    of [`ImageTokenizerSpec::bytes_of`] bytes; nothing gives nothing;
/// 3. codes and pixels of an image stand row-major, the upper left first;
/// 4. the same input gives the same output, whatever calls came before, from all tokenizers of this digest and numerics class;
/// 5. each image has the output that it has alone, in the order of the images, wherever calls cut them;
/// 6. squares are taken, by [`Self::encode`] and [`Self::decode`] too; images of another grid are taken both ways or neither way;
/// 7. pixels that are no whole number of images, codes that are none, a code out of range and a grid that is not taken are an
///    [`ImageInputError`], and no panic;
/// 8. after an error everything is as before;
/// 9. a tokenizer that cannot encode, or cannot decode, answers each such call with an error.
pub trait ImageTokenizer: Send {
    /// Returns identity and shapes.
    fn spec(&self) -> &ImageTokenizerSpec;

    /// Checks whether [`Self::encode`] works: given codes need no encoder.
    fn can_encode(&self) -> bool {
        true
    }

    /// Encodes images of `grid`. In: `n` images of [`ImageTokenizerSpec::bytes_of`] bytes. Out: `n` times [`Grid::codes`] codes, row-major,
    /// each below `codebook_size`. Keeps order. Codes do not depend on the other images of the call: every computation has the same batch
    /// size, and a short tail is padded.
    ///
    /// # Errors
    /// [`ImageInputError`] if the bytes are no whole number of images, or the grid is not taken; the implementor's error if there is no encoder,
    /// or the device fails.
    fn encode_grid(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError>;

    /// Encodes squares as [`Self::encode_grid`] does.
    ///
    /// # Errors
    /// As for [`Self::encode_grid`].
    fn encode(&mut self, pixels: &[u8]) -> Result<Vec<u32>, DynError> {
        let square = self.spec().square();
        self.encode_grid(pixels, square)
    }

    /// Checks whether [`Self::decode`] works: some weights are published without the decoder.
    fn can_decode(&self) -> bool {
        true
    }

    /// Decodes codes. In and out are those of [`Self::encode_grid`], exchanged.
    ///
    /// # Errors
    /// [`ImageInputError`] if the codes are no whole number of images, or one is out of range, or the grid is not taken; the implementor's error
    /// if there is no decoder, or the device fails.
    fn decode_grid(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError>;

    /// Decodes squares as [`Self::decode_grid`] does.
    ///
    /// # Errors
    /// As for [`Self::decode_grid`].
    fn decode(&mut self, codes: &[u32]) -> Result<Vec<u8>, DynError> {
        let square = self.spec().square();
        self.decode_grid(codes, square)
    }

    /// Returns the codebook vectors: `codebook_size * codebook_dim` floats, row-major; empty if the tokenizer exposes none.
    fn codebook(&self) -> &[f32];
}

/// Identity and shapes of an image annotator.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageAnnotatorSpec {
    /// Digest over settings and weights.
    pub digest: Digest,
    /// Side of the input square, in pixels.
    pub side_px: u32,
    /// Class of machines that compute the same pictures, bit by bit.
    pub numerics: NumericsClass,
}

impl ImageAnnotatorSpec {
    /// Returns the bytes of one input picture: RGB, row-major, interleaved.
    #[must_use]
    pub const fn bytes_per_image(&self) -> usize {
        (self.side_px * self.side_px * 3) as usize
    }
}

/// Output of an annotator for one picture: a square of its own size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotatedImage {
    /// Side of the square, in pixels.
    pub side_px: u32,
    /// RGB, row-major, interleaved: `side_px * side_px * 3` bytes.
    pub pixels: Vec<u8>,
}

/// Values that an annotator computed for a picture include NaN or infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{values} of {of} values are not finite")]
pub struct NotFinite {
    /// Number of values that are not finite.
    pub values: usize,
    /// Number of values of the picture.
    pub of: usize,
}

/// Annotator of pictures: computes edges, depth, normals or poses, as pictures.
pub trait ImageAnnotator: Send {
    /// Returns identity and shapes.
    fn spec(&self) -> &ImageAnnotatorSpec;

    /// Annotates pictures. In: `n` pictures of [`ImageAnnotatorSpec::bytes_per_image`] bytes. Out: one result for each. Keeps order. A
    /// result does not depend on the other pictures of the call: every computation has the same batch size, and a short tail is padded.
    ///
    /// # Errors
    /// The implementor's error if the bytes are no whole number of pictures, if the output has not the form of a picture, or if the device
    /// fails.
    fn annotate(&mut self, pixels: &[u8]) -> Result<Vec<Result<AnnotatedImage, NotFinite>>, DynError>;
}

/// An image in the form that an embedder takes.
#[derive(Debug, Clone, Copy)]
pub struct ImageView<'a> {
    /// Indices into the codebook, row-major.
    pub codes: &'a [u32],
    /// Fitted RGB pixels, as in [`ImageTokenizer::encode_grid`].
    pub pixels: &'a [u8],
    /// Rows and columns of the codes; `None` for a square.
    pub grid: Option<Grid>,
}

/// Maps texts and images to vectors whose inner product measures similarity. The embedding of a pair is the normalised mean of both, or the
/// one that exists.
pub trait PairEmbedder: Send {
    /// Returns the name for people, which states the method.
    fn name(&self) -> &str;

    /// Returns the digest of configuration, weights and fitted tables.
    fn digest(&self) -> Digest;

    /// Returns the length of an embedding.
    fn dimension(&self) -> usize;

    /// Embeds texts. Out: `texts.len() * dimension` floats, row-major, each row of unit length, or zero for an empty text.
    ///
    /// # Errors
    /// The implementor's error if the device fails.
    fn embed_texts(&mut self, texts: &[&str]) -> Result<Vec<f32>, DynError>;

    /// Embeds images. Out as in [`Self::embed_texts`].
    ///
    /// # Errors
    /// The implementor's error if codes or pixels do not fit the embedder, or if the device fails.
    fn embed_images(&mut self, images: &[ImageView<'_>]) -> Result<Vec<f32>, DynError>;
}

/// Sums of losses and numbers of tokens, by modality of the predicted token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ModalityLosses {
    /// Sum over text tokens, in nats.
    pub text_sum: f64,
    /// Number of text tokens.
    pub text_tokens: u64,
    /// Sum over image tokens, in nats.
    pub image_sum: f64,
    /// Number of image tokens.
    pub image_tokens: u64,
    /// Sum over control tokens, in nats.
    pub control_sum: f64,
    /// Number of control tokens.
    pub control_tokens: u64,
}

impl ModalityLosses {
    /// Returns the mean over the tokens of `modality`, in nats; `None` without such tokens.
    #[must_use]
    pub fn mean(&self, modality: Modality) -> Option<f64> {
        let (sum, tokens) = match modality {
            Modality::Text => (self.text_sum, self.text_tokens),
            Modality::Image => (self.image_sum, self.image_tokens),
            Modality::Control => (self.control_sum, self.control_tokens),
        };
        (tokens > 0).then(|| sum / tokens as f64)
    }

    /// Returns the mean over all tokens, in nats; `None` without tokens.
    #[must_use]
    pub fn mean_of_all(&self) -> Option<f64> {
        let tokens = self.text_tokens + self.image_tokens + self.control_tokens;
        (tokens > 0).then(|| (self.text_sum + self.image_sum + self.control_sum) / tokens as f64)
    }

    /// Adds the sums of `other`.
    pub fn add(&mut self, other: &Self) {
        self.text_sum += other.text_sum;
        self.text_tokens += other.text_tokens;
        self.image_sum += other.image_sum;
        self.image_tokens += other.image_tokens;
        self.control_sum += other.control_sum;
        self.control_tokens += other.control_tokens;
    }
}

/// Report of one optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Losses before the update.
    pub losses: ModalityLosses,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
}

/// Form of a sampled sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuation {
    /// A whole image: exactly this many tokens, or at most this many where its first tokens give its size.
    Image {
        /// Number of tokens.
        tokens: usize,
    },
    /// Text tokens until the span end: at least one, at most `max_tokens`.
    Text {
        /// Largest number of tokens.
        max_tokens: usize,
    },
}

/// Settings of sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Probability mass of the smallest set of tokens to sample from, 0 to 1.
    pub top_p: f64,
    /// Strength of classifier-free guidance; 1 for none.
    pub guidance: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// A prompt, and the unconditional one for guidance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids of the conditional prompt.
    pub tokens: Vec<u32>,
    /// Token ids of the unconditional prompt.
    pub unconditional: Vec<u32>,
}

/// A decoder-only transformer over the vocabulary.
pub trait LanguageModel: Send {
    /// Computes the losses of packs under the present weights. Changes nothing.
    ///
    /// # Errors
    /// The implementor's error for packs of another length, for ids outside the vocabulary, or if the device fails.
    fn losses(&mut self, batch: &PackBatch) -> Result<ModalityLosses, DynError>;

    /// Continues each prompt. Out: for each prompt the sampled tokens, as ids of the vocabulary, without the span end.
    ///
    /// # Errors
    /// The implementor's error if a prompt with its continuation exceeds the sequence length, or if the device fails.
    fn generate(&mut self, prompts: &[Prompt], continuation: Continuation, sampling: &Sampling) -> Result<Vec<Vec<u32>>, DynError>;
}

/// Position of a reader. Together with dataset version and seed it determines the next pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReaderState {
    /// Number of packs handed out so far, over all epochs.
    pub position: u64,
}

/// Source of packs in an order that can be resumed anywhere.
pub trait PackSource: Send {
    /// Returns the next `rows` packs. Blocks until a followed run has committed them. Never ends: epochs follow each other.
    ///
    /// # Errors
    /// The implementor's error if the store fails, if a block is damaged, or if the followed run has stopped.
    fn next_batch(&mut self, rows: usize) -> Result<PackBatch, DynError>;

    /// Returns the position behind the last pack handed out.
    fn state(&self) -> ReaderState;

    /// Continues behind `state`.
    fn restore(&mut self, state: ReaderState);
}

/// Files of a checkpoint by name.
pub type CheckpointFiles = BTreeMap<String, Vec<u8>>;

/// Store of checkpoints by step.
pub trait CheckpointStore: Send {
    /// Stores the files of `step`, and makes them visible only as a whole.
    ///
    /// # Errors
    /// The implementor's error if the store fails.
    fn put(&self, step: u64, files: &CheckpointFiles) -> Result<(), DynError>;

    /// Returns the checkpoint of the highest step, if there is one.
    ///
    /// # Errors
    /// The implementor's error if the store fails or the checkpoint is damaged.
    fn latest(&self) -> Result<Option<(u64, CheckpointFiles)>, DynError>;
}
