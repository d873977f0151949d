//! Errors of the models: invalid settings, weights that do not match, input of the wrong size, and failures of libtorch.
//!
//! Causes are typed and kept in `source`. Everything that a caller can get wrong is checked before libtorch sees it.

use cm3flow_schemas::{DynError, Grid, VocabularyError};
use safetensors::SafeTensorError;
use tch::TchError;
use thiserror::Error;
use zip::result::ZipError;

/// Errors of this crate.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A configuration breaks its rules.
    #[error("{what} is invalid: {}", problems.join("; "))]
    Config {
        /// Kind of configuration.
        what: &'static str,
        /// Problems of all fields, each with the field's path, the rule and the value.
        problems: Vec<String>,
    },
    /// CUDA was requested but cannot be used.
    #[error("cuda was asked for but cannot be used: {reason}; {advice}")]
    CudaUnavailable {
        /// Missing or failing part.
        reason: String,
        /// Advice for people.
        advice: String,
    },
    /// The bf16 kernels for a GPU cannot be compiled or loaded.
    #[error(
        "the image tokenizer's kernels for CUDA cannot be prepared: {reason}; they need NVRTC, which PyTorch's wheels bring in nvidia-cuda-nvrtc, \
         and a driver for the CUDA that it is of: install PyTorch anew, update the driver, or set precision to float32"
    )]
    Kernels {
        /// Message of the compiler or the driver.
        reason: String,
    },
    /// libtorch refused or failed.
    #[error("libtorch failed to {doing}")]
    Torch {
        /// Attempted step.
        doing: &'static str,
        /// Error of libtorch.
        source: TchError,
    },
    /// Bytes that are no safetensors file, or tensors that cannot be written to one.
    #[error("cannot convert tensors to or from safetensors")]
    Safetensors {
        /// Error of the safetensors library.
        source: SafeTensorError,
    },
    /// A file has another format than weights.
    #[error("the file is {found}; {advice}")]
    NotWeights {
        /// Format that was recognised.
        found: String,
        /// Advice for people.
        advice: String,
    },
    /// Weights in a PyTorch format from before 2020.
    #[error(
        "weights are a PyTorch checkpoint of the old {format} format, which is not read; convert them with PyTorch 1.6 or later: \
         torch.save(torch.load(old, map_location=\"cpu\"), new)"
    )]
    OldCheckpoint {
        /// `tar` or `pickle`.
        format: &'static str,
    },
    /// The ZIP archive of a PyTorch checkpoint cannot be read.
    #[error("cannot read {entry} of the PyTorch checkpoint")]
    Archive {
        /// Entry of the archive, or another part that was read.
        entry: String,
        /// Error of the ZIP library.
        source: ZipError,
    },
    /// A PyTorch checkpoint contradicts itself, or is none.
    #[error("the PyTorch checkpoint cannot be used: {problem}")]
    Checkpoint {
        /// Problem and advice.
        problem: String,
    },
    /// The list of tensors of a PyTorch checkpoint is damaged.
    #[error("cannot read the list of tensors of the PyTorch checkpoint")]
    Pickle {
        /// Problem and its position.
        source: PickleError,
    },
    /// A tensor of a PyTorch checkpoint exceeds its storage.
    #[error("tensor {name} cannot be read: {problem}")]
    TensorPlace {
        /// Name of the tensor.
        name: String,
        /// Numbers of the mismatch.
        problem: String,
    },
    /// The weights have no image tokenizer of a known layout.
    #[error("weights hold no VQ image tokenizer: {problem}")]
    Layout {
        /// Names that were sought and found.
        problem: String,
    },
    /// Codes cannot be decoded with these weights.
    #[error(
        "the weights of image tokenizer {tokenizer} hold no decoder, so its codes cannot become pictures; \
         take weights with tensors decoder.*, such as vqgan.ckpt of the original Chameleon"
    )]
    NoDecoder {
        /// Name of the tokenizer.
        tokenizer: String,
    },
    /// libtorch refused or failed on the TorchScript module of an annotator.
    #[error("libtorch failed to {doing} annotator {annotator}")]
    Annotator {
        /// Name in the configuration.
        annotator: String,
        /// Attempted step.
        doing: &'static str,
        /// Error of libtorch.
        source: TchError,
    },
    /// The output of a TorchScript module has not the described form.
    #[error("the {module} returned {found}, expected {expected}")]
    ModuleOutput {
        /// `encoder`, `decoder`, or `annotator` with its name.
        module: String,
        /// Form of the output.
        found: String,
        /// Form that follows from the configuration.
        expected: String,
    },
    /// The weights lack a tensor.
    #[error("weights lack tensor {name} of shape {shape:?}; {left}")]
    TensorMissing {
        /// Name in the file.
        name: String,
        /// Shape that follows from the configuration.
        shape: Vec<i64>,
        /// Number of unused tensors, with the first names.
        left: String,
    },
    /// The weights have a tensor that the configuration has no place for.
    #[error("weights hold tensor {name}, which the configuration has no place for ({others} more such)")]
    TensorExtra {
        /// Name of the first one.
        name: String,
        /// Number of further tensors.
        others: usize,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Name in the file.
        name: String,
        /// Expected shape.
        expected: Vec<i64>,
        /// Actual shape.
        found: Vec<i64>,
    },
    /// A tensor has an unsupported element type.
    #[error("tensor {name} is stored as {found}, expected {expected}")]
    TensorType {
        /// Name in the file.
        name: String,
        /// Actual element type, as the file names it.
        found: String,
        /// Supported element types.
        expected: &'static str,
    },
    /// Pixels are no whole number of images.
    #[error("{bytes} bytes of pixels are no whole number of images of {bytes_per_image} bytes")]
    Pixels {
        /// Number of bytes given.
        bytes: usize,
        /// Number of bytes of one image.
        bytes_per_image: usize,
    },
    /// An image tokenizer does not support the requested grid.
    #[error("{tokenizer} takes squares alone, no image of {grid} codes")]
    Grid {
        /// Name of the tokenizer.
        tokenizer: String,
        /// Requested grid.
        grid: Grid,
    },
    /// Codes are no whole number of images.
    #[error("{codes} codes are no whole number of images of {codes_per_image} codes")]
    Codes {
        /// Number of codes given.
        codes: usize,
        /// Number of codes of one image.
        codes_per_image: usize,
    },
    /// A code is outside the codebook.
    #[error("code {code} at {position} is out of range 0..{codebook_size}")]
    CodeOutOfRange {
        /// Index of the code in the input.
        position: usize,
        /// Value of the code.
        code: u32,
        /// Size of the codebook.
        codebook_size: u32,
    },
    /// There are too few images to fit on.
    #[error("there are {images} images, fitting needs at least {needed}")]
    TooFewImages {
        /// Number of images given.
        images: usize,
        /// Number of images required.
        needed: usize,
    },
    /// Packs have another length than the model's, or arrays of different sizes.
    #[error("batch of {rows} packs of {seq_len} tokens has {tokens} tokens; the model takes packs of {expected}")]
    PackShape {
        /// Number of packs.
        rows: usize,
        /// Tokens of a pack, according to the batch.
        seq_len: usize,
        /// Total number of tokens.
        tokens: usize,
        /// Tokens of a pack that the model expects.
        expected: usize,
    },
    /// A token is outside the vocabulary.
    #[error("token {token} at {position} of row {row} is out of range 0..{vocabulary_size}")]
    TokenOutOfRange {
        /// Index of the pack or prompt.
        row: usize,
        /// Index in the pack or prompt.
        position: usize,
        /// Id of the token.
        token: u32,
        /// Number of ids in the vocabulary.
        vocabulary_size: u32,
    },
    /// A segment exceeds its pack, or has a negative or infinite weight.
    #[error("segment {segment} of row {row} covers tokens {start}..{end} of {seq_len} with loss weight {loss_weight}")]
    Segment {
        /// Index of the pack.
        row: usize,
        /// Index of the segment.
        segment: usize,
        /// First token.
        start: usize,
        /// One past the last token.
        end: usize,
        /// Number of tokens in the pack.
        seq_len: usize,
        /// Loss weight of the segment.
        loss_weight: f32,
    },
    /// A prompt has no tokens.
    #[error("prompt {prompt} is empty")]
    PromptEmpty {
        /// Index of the prompt.
        prompt: usize,
    },
    /// A prompt leaves no room for its continuation.
    #[error("prompt {prompt} has {tokens} tokens; with {continuation} more it exceeds the sequence length of {seq_len}")]
    PromptTooLong {
        /// Index of the prompt.
        prompt: usize,
        /// Number of tokens of the longer one of its two prompts.
        tokens: usize,
        /// Number of tokens to sample.
        continuation: usize,
        /// Sequence length of the model.
        seq_len: usize,
    },
    /// Loss or gradient is infinite or NaN.
    #[error("training diverged: loss {loss}, gradient norm {gradient_norm} at step {step}")]
    Diverged {
        /// Number of the step.
        step: u64,
        /// Mean loss over the tokens.
        loss: f64,
        /// Norm of the gradient before clipping.
        gradient_norm: f64,
    },
    /// A checkpoint lacks a file.
    #[error("checkpoint lacks file {name}")]
    CheckpointFile {
        /// Name of the file.
        name: &'static str,
    },
    /// The state of a checkpoint cannot be written or read.
    #[error("cannot convert the state of the checkpoint to or from JSON")]
    CheckpointState {
        /// Error of the JSON library.
        source: serde_json::Error,
    },
    /// A checkpoint has other settings.
    #[error("checkpoint differs in {field}: {ours} here, {theirs} in the checkpoint")]
    CheckpointDiffers {
        /// Path of the first differing field.
        field: String,
        /// Value in this run.
        ours: String,
        /// Value in the checkpoint.
        theirs: String,
    },
    /// Vocabularies differ, or one contradicts itself.
    #[error("the vocabulary cannot be used")]
    Vocabulary {
        /// Mismatch or contradiction.
        #[from]
        source: VocabularyError,
    },
    /// The source of packs returned fewer than requested, although it should never end.
    #[error("the source of packs handed out {found} of {asked} packs at step {step}; it must go on for ever")]
    PacksEnded {
        /// Number of the step.
        step: u64,
        /// Number of packs requested.
        asked: usize,
        /// Number of packs returned.
        found: usize,
    },
    /// The source of packs failed.
    #[error("cannot read packs at step {step}")]
    Source {
        /// Number of the step.
        step: u64,
        /// Error of the source.
        source: DynError,
    },
    /// The store of checkpoints failed.
    #[error("cannot reach the checkpoints at step {step}")]
    Store {
        /// Number of finished steps.
        step: u64,
        /// Error of the store.
        source: DynError,
    },
    /// The observer of a training failed.
    #[error("the observer failed at step {step}")]
    Observer {
        /// Number of finished steps.
        step: u64,
        /// Error of the observer.
        source: DynError,
    },
}

impl ModelError {
    /// Adds the attempted step to an error of libtorch, for `map_err`.
    pub(crate) fn torch(doing: &'static str) -> impl FnOnce(TchError) -> Self {
        move |source| Self::Torch { doing, source }
    }

    /// Checks whether the cause is a file with other content than expected.
    #[must_use]
    pub const fn is_of_the_file(&self) -> bool {
        matches!(
            self,
            Self::NotWeights { .. }
                | Self::OldCheckpoint { .. }
                | Self::Safetensors { .. }
                | Self::Archive { .. }
                | Self::Checkpoint { .. }
                | Self::Pickle { .. }
                | Self::Layout { .. }
                | Self::TensorMissing { .. }
                | Self::TensorExtra { .. }
                | Self::TensorShape { .. }
                | Self::TensorType { .. }
                | Self::TensorPlace { .. }
        )
    }

    /// Checks whether the same call may succeed later: only failures outside of this crate are temporary.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Source { .. } | Self::Store { .. })
    }
}

/// Problems of a pickle. Positions are bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PickleError {
    /// It ends within an instruction, or before the last one.
    #[error("the pickle ends at byte {position}, in the middle")]
    Truncated {
        /// Length of the pickle in bytes.
        position: usize,
    },
    /// An unknown instruction.
    #[error("the pickle has unknown instruction {code:#04x} at byte {position}")]
    Instruction {
        /// Code of the instruction.
        code: u8,
        /// Position of the instruction.
        position: usize,
    },
    /// An instruction lacks its operands.
    #[error("the pickle lacks {what} at byte {position}")]
    Missing {
        /// Missing operand.
        what: &'static str,
        /// Position behind the instruction's code.
        position: usize,
    },
    /// A malformed number or text.
    #[error("the pickle has a malformed {what} at byte {position}")]
    Malformed {
        /// Expected content.
        what: &'static str,
        /// Position of the content.
        position: usize,
    },
    /// More values than any checkpoint has.
    #[error("the pickle makes more than {limit} values")]
    TooLarge {
        /// Largest number of values.
        limit: usize,
    },
}

/// Collector of the problems of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Adds `problem` unless `holds`.
    pub(crate) fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    /// Adds a problem unless `field` is in `low..=high`.
    pub(crate) fn range<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, low: T, high: T) {
        self.require(value >= low && value <= high, || format!("{field} must be in {low}..={high}, got {value}"));
    }

    /// Returns all problems.
    pub(crate) fn into_list(self) -> Vec<String> {
        self.0
    }

    /// Returns an error if there are problems; `what` names the configuration.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), ModelError> {
        if self.0.is_empty() { Ok(()) } else { Err(ModelError::Config { what, problems: self.0 }) }
    }
}
