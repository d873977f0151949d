//! What stages ask of models, and models of stores. Implementations live in `cm3flow-model`, `cm3flow-stages` and `cm3flow`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;
use crate::document::Modality;
use crate::error::{DynError, ImageInputError};
use crate::grid::Grid;
use crate::pack::PackBatch;
use crate::unit::NumericsClass;

/// What an image tokenizer is and takes.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTokenizerSpec {
    /// Name for people.
    pub name: String,
    /// Digest of configuration and weights.
    pub digest: Digest,
    /// Side of the square that it takes, in pixels.
    pub side_px: u32,
    /// Codes in a row and in a column.
    pub grid: u32,
    /// Number of different codes.
    pub codebook_size: u32,
    /// Length of a codebook vector; 0 if the tokenizer shows no codebook.
    pub codebook_dim: u32,
    /// What makes its codes equal to the bit.
    pub numerics: NumericsClass,
}

impl ImageTokenizerSpec {
    /// Rows and columns of a square.
    #[must_use]
    pub const fn square(&self) -> Grid {
        Grid::square(self.grid)
    }

    /// Width and height in pixels of an image of `grid`.
    #[must_use]
    pub const fn size_px(&self, grid: Grid) -> (u32, u32) {
        (self.side_of(grid.columns) as u32, self.side_of(grid.rows) as u32)
    }

    /// Pixels that `codes` codes in a row stand for.
    const fn side_of(&self, codes: u32) -> u64 {
        self.side_px as u64 * codes as u64 / self.grid as u64
    }

    /// Bytes of one fitted image of `grid`: RGB, row-major, interleaved.
    #[must_use]
    pub const fn bytes_of(&self, grid: Grid) -> usize {
        let (width, height) = self.size_px(grid);
        width as usize * height as usize * 3
    }

    /// Number of images of `grid` that `pixels` are.
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

    /// Number of images of `grid` that `codes` are.
    ///
    /// # Errors
    /// [`ImageInputError::Grid`] as of [`Self::images_of_pixels`], [`ImageInputError::Codes`], [`ImageInputError::CodeOutOfRange`].
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

    /// [`Self::bytes_of`] a grid that images can have.
    fn possible_bytes_of(&self, grid: Grid) -> Result<usize, ImageInputError> {
        let side = |codes| u32::try_from(self.side_of(codes)).ok();
        let bytes = side(grid.columns).zip(side(grid.rows)).map(|(width, height)| u128::from(width) * u128::from(height) * 3);
        match bytes.map(isize::try_from) {
            Some(Ok(bytes)) if bytes > 0 => Ok(bytes.unsigned_abs()),
            _ => Err(ImageInputError::Grid { model: self.name.clone(), takes: "images that have codes and fit into memory", grid }),
        }
    }

    /// Codes of one square.
    #[must_use]
    pub const fn codes_per_image(&self) -> usize {
        (self.grid * self.grid) as usize
    }

    /// Bytes of one fitted square: RGB, row-major, interleaved.
    #[must_use]
    pub const fn bytes_per_image(&self) -> usize {
        (self.side_px * self.side_px * 3) as usize
    }
}

/// Turns fitted images into codes and back.
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
    /// What it is and takes.
    fn spec(&self) -> &ImageTokenizerSpec;

    /// Whether [`Self::encode`] works: where codes are given, there may be nothing that makes more of them.
    fn can_encode(&self) -> bool {
        true
    }

    /// Encodes images of `grid`. In: `n` images of [`ImageTokenizerSpec::bytes_of`] bytes. Out: `n` times [`Grid::codes`] codes, row-major,
    /// each below `codebook_size`. Keeps order. Codes do not depend on the other images of the call: every computation has the fixed batch
    /// size, a short tail is padded.
    ///
    /// # Errors
    /// [`ImageInputError`] if the bytes are no whole number of images, or the grid is not taken; the implementor's error if there is no encoder,
    /// or the device fails.
    fn encode_grid(&mut self, pixels: &[u8], grid: Grid) -> Result<Vec<u32>, DynError>;

    /// Encodes squares, as [`Self::encode_grid`].
    ///
    /// # Errors
    /// As [`Self::encode_grid`].
    fn encode(&mut self, pixels: &[u8]) -> Result<Vec<u32>, DynError> {
        let square = self.spec().square();
        self.encode_grid(pixels, square)
    }

    /// Whether [`Self::decode`] works: some weights are published without their decoder.
    fn can_decode(&self) -> bool {
        true
    }

    /// Decodes codes. In and out as in [`Self::encode_grid`], the other way round.
    ///
    /// # Errors
    /// [`ImageInputError`] if the codes are no whole number of images, or one is out of range, or the grid is not taken; the implementor's error
    /// if there is no decoder, or the device fails.
    fn decode_grid(&mut self, codes: &[u32], grid: Grid) -> Result<Vec<u8>, DynError>;

    /// Decodes squares, as [`Self::decode_grid`].
    ///
    /// # Errors
    /// As [`Self::decode_grid`].
    fn decode(&mut self, codes: &[u32]) -> Result<Vec<u8>, DynError> {
        let square = self.spec().square();
        self.decode_grid(codes, square)
    }

    /// Codebook vectors, `codebook_size * codebook_dim` floats, row-major; none if the tokenizer shows no codebook.
    fn codebook(&self) -> &[f32];
}

/// What an image annotator is and takes.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageAnnotatorSpec {
    /// Digest of settings and weights.
    pub digest: Digest,
    /// Side of the square that it takes, in pixels.
    pub side_px: u32,
    /// What makes its pictures equal to the bit.
    pub numerics: NumericsClass,
}

impl ImageAnnotatorSpec {
    /// Bytes of one picture that it takes: RGB, row-major, interleaved.
    #[must_use]
    pub const fn bytes_per_image(&self) -> usize {
        (self.side_px * self.side_px * 3) as usize
    }
}

/// What an annotator makes of a picture: a square of its own size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotatedImage {
    /// Side of the square, in pixels.
    pub side_px: u32,
    /// `side_px * side_px * 3` bytes: RGB, row-major, interleaved.
    pub pixels: Vec<u8>,
}

/// An annotator computed values for a picture that are no numbers, or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{values} of {of} values are not finite")]
pub struct NotFinite {
    /// How many.
    pub values: usize,
    /// Values of the picture.
    pub of: usize,
}

/// Makes of pictures what else can be seen in them, as pictures: edges, depth, normals, poses.
pub trait ImageAnnotator: Send {
    /// What it is and takes.
    fn spec(&self) -> &ImageAnnotatorSpec;

    /// Annotates pictures. In: `n` pictures of [`ImageAnnotatorSpec::bytes_per_image`] bytes. Out: one result for each. Keeps order. A result does not
    /// depend on the other pictures of the call: every computation has the fixed batch size, a short tail is padded.
    ///
    /// # Errors
    /// The implementor's error if the bytes are no whole number of pictures, or what is computed is no picture at all, or the device fails.
    fn annotate(&mut self, pixels: &[u8]) -> Result<Vec<Result<AnnotatedImage, NotFinite>>, DynError>;
}

/// An image as an embedder takes it.
#[derive(Debug, Clone, Copy)]
pub struct ImageView<'a> {
    /// Its codes.
    pub codes: &'a [u32],
    /// Its pixels as in [`ImageTokenizer::encode_grid`].
    pub pixels: &'a [u8],
    /// Rows and columns of its codes; `None` for a square.
    pub grid: Option<Grid>,
}

/// Maps texts and images to vectors whose inner product says how alike they are. A pair's embedding is the normalised average of
/// both; a pair that lacks one has the other alone.
pub trait PairEmbedder: Send {
    /// Name for people: says what it honestly is.
    fn name(&self) -> &str;

    /// Digest of configuration, weights and fitted tables.
    fn digest(&self) -> Digest;

    /// Length of an embedding.
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

/// Sum of losses and number of tokens, by modality of the predicted token.
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
    /// Mean over the tokens of `modality`, in nats; `None` without such tokens.
    #[must_use]
    pub fn mean(&self, modality: Modality) -> Option<f64> {
        let (sum, tokens) = match modality {
            Modality::Text => (self.text_sum, self.text_tokens),
            Modality::Image => (self.image_sum, self.image_tokens),
            Modality::Control => (self.control_sum, self.control_tokens),
        };
        (tokens > 0).then(|| sum / tokens as f64)
    }

    /// Mean over all tokens, in nats; `None` without tokens.
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

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Losses before the step.
    pub losses: ModalityLosses,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
}

/// What a sampled sequence may consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuation {
    /// A whole image: exactly so many tokens, or at most so many where its first tokens say its size.
    Image {
        /// Number of tokens.
        tokens: usize,
    },
    /// Text tokens until the span end, one or more, at most so many.
    Text {
        /// Most tokens.
        max_tokens: usize,
    },
}

/// How to sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Smallest probability mass that is sampled from, 0 to 1.
    pub top_p: f64,
    /// Strength of classifier-free guidance; 1 for none.
    pub guidance: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// A prompt with the prompt that guidance starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Token ids of the unconditional prompt.
    pub unconditional: Vec<u32>,
}

/// A decoder-only transformer over the vocabulary.
pub trait LanguageModel: Send {
    /// Losses of packs under the present weights; changes nothing.
    ///
    /// # Errors
    /// The implementor's error for packs of another length or ids outside the vocabulary, or if the device fails.
    fn losses(&mut self, batch: &PackBatch) -> Result<ModalityLosses, DynError>;

    /// Continues each prompt. Out: for each prompt the tokens sampled behind it, as ids of the vocabulary, without the span end.
    ///
    /// # Errors
    /// The implementor's error if a prompt with its continuation exceeds the sequence length, or if the device fails.
    fn generate(&mut self, prompts: &[Prompt], continuation: Continuation, sampling: &Sampling) -> Result<Vec<Vec<u32>>, DynError>;
}

/// Position of a reader: together with dataset version and seed it says what comes next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReaderState {
    /// Packs handed out so far, over all epochs.
    pub position: u64,
}

/// Hands out packs in an order that can be resumed anywhere.
pub trait PackSource: Send {
    /// The next `rows` packs. Blocks while a followed run has not committed them yet. Never ends: epochs follow each other.
    ///
    /// # Errors
    /// The implementor's error if the store fails, a block is damaged, or the followed run has stopped.
    fn next_batch(&mut self, rows: usize) -> Result<PackBatch, DynError>;

    /// Position behind the last pack handed out.
    fn state(&self) -> ReaderState;

    /// Goes on behind `state`.
    fn restore(&mut self, state: ReaderState);
}

/// Files of a checkpoint by name.
pub type CheckpointFiles = BTreeMap<String, Vec<u8>>;

/// Keeps checkpoints by step.
pub trait CheckpointStore: Send {
    /// Stores the files of `step` and then makes them visible as a whole.
    ///
    /// # Errors
    /// The implementor's error if the store fails.
    fn put(&self, step: u64, files: &CheckpointFiles) -> Result<(), DynError>;

    /// The checkpoint of the highest step, if any.
    ///
    /// # Errors
    /// The implementor's error if the store fails or the checkpoint is damaged.
    fn latest(&self) -> Result<Option<(u64, CheckpointFiles)>, DynError>;
}
