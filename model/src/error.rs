//! Errors of the models: bad settings, weights that do not fit, input of the wrong size, and what libtorch reports.
//!
//! Causes are typed and kept in `source`. Everything that a caller can get wrong is checked before libtorch sees it.

use cm3flow_schemas::{DynError, ImageInputError, VocabularyError};
use safetensors::SafeTensorError;
use tch::TchError;
use thiserror::Error;
use zip::result::ZipError;

/// What can go wrong in this crate.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A configuration breaks its rules.
    #[error("{what} is invalid: {}", problems.join("; "))]
    Config {
        /// Which configuration.
        what: &'static str,
        /// Every bad field, by its path, with the rule and the value.
        problems: Vec<String>,
    },
    /// CUDA was asked for and is not there.
    #[error("cuda was asked for but cannot be used: {reason}; {advice}")]
    CudaUnavailable {
        /// What is missing.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The kernels for bf16 on a GPU cannot be made.
    #[error(
        "the image tokenizer's kernels for CUDA cannot be prepared: {reason}; they need NVRTC, which PyTorch's wheels bring in nvidia-cuda-nvrtc, \
         and a driver for the CUDA that it is of: install PyTorch anew, update the driver, or set precision to float32"
    )]
    Kernels {
        /// What the compiler or the driver says.
        reason: String,
    },
    /// libtorch refused or failed.
    #[error("libtorch failed to {doing}")]
    Torch {
        /// What it was asked to do.
        doing: &'static str,
        /// What it says.
        source: TchError,
    },
    /// Bytes that are no safetensors file, or tensors that cannot be written as one.
    #[error("cannot convert tensors to or from safetensors")]
    Safetensors {
        /// What the format's library says.
        source: SafeTensorError,
    },
    /// A file that is something else than weights.
    #[error("the file is {found}; {advice}")]
    NotWeights {
        /// What it is.
        found: String,
        /// What to do.
        advice: String,
    },
    /// Weights in a format of PyTorch's from before 2020.
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
        /// Entry of the archive, or what else was read.
        entry: String,
        /// What the format's library says.
        source: ZipError,
    },
    /// A PyTorch checkpoint that contradicts itself, or is none.
    #[error("the PyTorch checkpoint cannot be used: {problem}")]
    Checkpoint {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The list of tensors of a PyTorch checkpoint is damaged.
    #[error("cannot read the list of tensors of the PyTorch checkpoint")]
    Pickle {
        /// Where.
        source: PickleError,
    },
    /// A tensor of a PyTorch checkpoint leaves its storage.
    #[error("tensor {name} cannot be read: {problem}")]
    TensorPlace {
        /// Its name.
        name: String,
        /// How.
        problem: String,
    },
    /// No image tokenizer of a known layout is in the weights.
    #[error("weights hold no VQ image tokenizer: {problem}")]
    Layout {
        /// What was looked for and found.
        problem: String,
    },
    /// Codes cannot be decoded with these weights.
    #[error(
        "the weights of image tokenizer {tokenizer} hold no decoder, so its codes cannot become pictures; \
         take weights with tensors decoder.*, such as vqgan.ckpt of the original Chameleon"
    )]
    NoDecoder {
        /// Its name.
        tokenizer: String,
    },
    /// libtorch refused or failed on the TorchScript module of an annotator.
    #[error("libtorch failed to {doing} annotator {annotator}")]
    Annotator {
        /// What the configuration calls it.
        annotator: String,
        /// What it was asked to do.
        doing: &'static str,
        /// What it says.
        source: TchError,
    },
    /// A TorchScript module returned something else than it was described to return.
    #[error("the {module} returned {found}, expected {expected}")]
    ModuleOutput {
        /// `encoder`, `decoder`, or `annotator` with its name.
        module: String,
        /// What it returned.
        found: String,
        /// What the configuration makes of it.
        expected: String,
    },
    /// The weights lack a tensor.
    #[error("weights lack tensor {name} of shape {shape:?}; {left}")]
    TensorMissing {
        /// Its name.
        name: String,
        /// Its shape under the configuration.
        shape: Vec<i64>,
        /// How many of their tensors nothing asked for yet, with the first names.
        left: String,
    },
    /// The weights hold a tensor that the configuration has no place for.
    #[error("weights hold tensor {name}, which the configuration has no place for ({others} more such)")]
    TensorExtra {
        /// Name of the first one.
        name: String,
        /// Number of further ones.
        others: usize,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// Shape under the configuration.
        expected: Vec<i64>,
        /// Shape found.
        found: Vec<i64>,
    },
    /// A tensor is stored as something else than the numbers expected.
    #[error("tensor {name} is stored as {found}, expected {expected}")]
    TensorType {
        /// Its name.
        name: String,
        /// Element type found, as its file names it.
        found: String,
        /// Element types that will do.
        expected: &'static str,
    },
    /// Pixels or codes that are no images of the model's.
    #[error(transparent)]
    Input {
        /// Why not.
        #[from]
        source: ImageInputError,
    },
    /// Nothing to fit on.
    #[error("there are {images} images, fitting needs at least {needed}")]
    TooFewImages {
        /// Images given.
        images: usize,
        /// Fewest that will do.
        needed: usize,
    },
    /// Packs of another length than the model's, or arrays that do not fit together.
    #[error("batch of {rows} packs of {seq_len} tokens has {tokens} tokens; the model takes packs of {expected}")]
    PackShape {
        /// Packs.
        rows: usize,
        /// Tokens of a pack, as the batch says.
        seq_len: usize,
        /// Tokens in all.
        tokens: usize,
        /// Tokens of a pack that the model takes.
        expected: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} at {position} of row {row} is out of range 0..{vocabulary_size}")]
    TokenOutOfRange {
        /// Pack or prompt.
        row: usize,
        /// Index in it.
        position: usize,
        /// The id.
        token: u32,
        /// Number of ids.
        vocabulary_size: u32,
    },
    /// A segment that leaves its pack, or whose weight is negative or not finite.
    #[error("segment {segment} of row {row} covers tokens {start}..{end} of {seq_len} with loss weight {loss_weight}")]
    Segment {
        /// Pack.
        row: usize,
        /// Index of the segment.
        segment: usize,
        /// First token.
        start: usize,
        /// One past the last token.
        end: usize,
        /// Tokens of the pack.
        seq_len: usize,
        /// Its weight.
        loss_weight: f32,
    },
    /// A prompt without tokens.
    #[error("prompt {prompt} is empty")]
    PromptEmpty {
        /// Index of the prompt.
        prompt: usize,
    },
    /// A prompt that leaves no room for its continuation.
    #[error("prompt {prompt} has {tokens} tokens; with {continuation} more it exceeds the sequence length of {seq_len}")]
    PromptTooLong {
        /// Index of the prompt.
        prompt: usize,
        /// Tokens of the longer of its two prompts.
        tokens: usize,
        /// Tokens to be sampled.
        continuation: usize,
        /// Tokens that the model takes.
        seq_len: usize,
    },
    /// Loss or gradient became infinite or no number.
    #[error("training diverged: loss {loss}, gradient norm {gradient_norm} at step {step}")]
    Diverged {
        /// The step.
        step: u64,
        /// Mean loss.
        loss: f64,
        /// Norm of the gradient.
        gradient_norm: f64,
    },
    /// A checkpoint lacks a file.
    #[error("checkpoint lacks file {name}")]
    CheckpointFile {
        /// Its name.
        name: &'static str,
    },
    /// The state of a checkpoint cannot be written or read.
    #[error("cannot convert the state of the checkpoint to or from JSON")]
    CheckpointState {
        /// What the format's library says.
        source: serde_json::Error,
    },
    /// A checkpoint was made under other settings.
    #[error("checkpoint differs in {field}: {ours} here, {theirs} in the checkpoint")]
    CheckpointDiffers {
        /// Path of the first field that differs.
        field: String,
        /// Value of this run.
        ours: String,
        /// Value of the checkpoint.
        theirs: String,
    },
    /// Vocabularies differ, or one contradicts itself.
    #[error("the vocabulary cannot be used")]
    Vocabulary {
        /// Where.
        #[from]
        source: VocabularyError,
    },
    /// The source of packs handed out fewer than asked for, though by its contract it never ends.
    #[error("the source of packs handed out {found} of {asked} packs at step {step}; it must go on for ever")]
    PacksEnded {
        /// The step.
        step: u64,
        /// Packs asked for.
        asked: usize,
        /// Packs handed out.
        found: usize,
    },
    /// The source of packs failed.
    #[error("cannot read packs at step {step}")]
    Source {
        /// The step.
        step: u64,
        /// The source's error.
        source: DynError,
    },
    /// The store of checkpoints failed.
    #[error("cannot reach the checkpoints at step {step}")]
    Store {
        /// Steps done.
        step: u64,
        /// The store's error.
        source: DynError,
    },
    /// The observer of a training failed.
    #[error("the observer failed at step {step}")]
    Observer {
        /// Steps done.
        step: u64,
        /// The observer's error.
        source: DynError,
    },
}

impl ModelError {
    /// Names what libtorch was asked to do: for `map_err`.
    pub(crate) fn torch(doing: &'static str) -> impl FnOnce(TchError) -> Self {
        move |source| Self::Torch { doing, source }
    }

    /// Whether a file that the caller handed over is something else than it should be.
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

    /// Whether the same call may succeed later: only failures of what stands outside this crate.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Source { .. } | Self::Store { .. })
    }
}

/// What can be wrong with a pickle. Positions are bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PickleError {
    /// It ends within an instruction, or without its last one.
    #[error("the pickle ends at byte {position}, in the middle")]
    Truncated {
        /// Where.
        position: usize,
    },
    /// An instruction that nothing here knows.
    #[error("the pickle has unknown instruction {code:#04x} at byte {position}")]
    Instruction {
        /// The instruction.
        code: u8,
        /// Where it stands.
        position: usize,
    },
    /// An instruction without the values that it works on.
    #[error("the pickle lacks {what} at byte {position}")]
    Missing {
        /// What the instruction needs.
        what: &'static str,
        /// Where.
        position: usize,
    },
    /// A number or text that is none.
    #[error("the pickle has a malformed {what} at byte {position}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// Where.
        position: usize,
    },
    /// More values than any checkpoint has.
    #[error("the pickle makes more than {limit} values")]
    TooLarge {
        /// Most values.
        limit: usize,
    },
}

/// Collects the problems of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Notes `problem` unless `holds`.
    pub(crate) fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(problem());
        }
    }

    /// Notes `field` unless it is in `low..=high`.
    pub(crate) fn range<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, low: T, high: T) {
        self.require(value >= low && value <= high, || format!("{field} must be in {low}..={high}, got {value}"));
    }

    /// All problems that were noted.
    pub(crate) fn into_list(self) -> Vec<String> {
        self.0
    }

    /// An error if any problem was noted; `what` names the configuration.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), ModelError> {
        if self.0.is_empty() { Ok(()) } else { Err(ModelError::Config { what, problems: self.0 }) }
    }
}
