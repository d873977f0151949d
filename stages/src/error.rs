//! Errors of stages. A bad row is none: it carries a refusal and goes to the ledger.

use cm3flow_schemas::{DynError, SchemaError, VocabularyError};
use thiserror::Error;

/// What stages return.
pub type Result<T, E = StageError> = std::result::Result<T, E>;

/// Why a text has no tokens.
#[cfg(feature = "prepare")]
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

/// Why a picture cannot be decoded: a reason to count, and what exactly.
#[cfg(feature = "prepare")]
pub type DecodeError = (&'static str, String);

/// Why a stage, a source or a reader had to stop.
#[derive(Debug, Error)]
pub enum StageError {
    /// The receiver of a stage's batches is gone; whoever closed it knows why.
    #[error("the next stage has stopped")]
    DownstreamClosed,
    /// A batch has other columns than the stage works on.
    #[error("stage {stage} cannot work on its input")]
    Schema {
        /// The stage.
        stage: &'static str,
        /// What is wrong with the batch.
        #[source]
        source: SchemaError,
    },
    /// A store could not be read.
    #[error("cannot read {location}")]
    Store {
        /// Address or path.
        location: String,
        /// The store's error.
        #[source]
        source: object_store::Error,
    },
    /// A source's address or content cannot be used at all.
    #[error("source {name}: {problem}")]
    Source {
        /// Name of the source in the configuration.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A source's file is not what it was when the run was planned.
    #[error("source {source_name}: {file} has changed since the run was planned: {problem}; run again to plan it anew")]
    Changed {
        /// Name of the source in the configuration.
        source_name: String,
        /// The file.
        file: String,
        /// What differs.
        problem: String,
    },
    /// A file could not be read as what it should be.
    #[error("cannot read {location}")]
    Read {
        /// Address or path.
        location: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A model behind one of the traits failed.
    #[error("{component} failed in stage {stage}")]
    Model {
        /// The stage.
        stage: &'static str,
        /// What it asked.
        component: &'static str,
        /// The model's own error.
        #[source]
        source: DynError,
    },
    /// A call of a model panicked; where is in the log.
    #[error("{owner} panicked: {problem}")]
    OwnerPanicked {
        /// Name of the thread that owns the model.
        owner: &'static str,
        /// What the panic said.
        problem: String,
    },
    /// A text tokenizer could not be fitted, loaded or used.
    #[error("text tokenizer: {action}")]
    TextTokenizer {
        /// What was tried.
        action: &'static str,
        /// The library's error.
        #[source]
        source: DynError,
    },
    /// A text that had been encoded before can be no more.
    #[cfg(feature = "prepare")]
    #[error("a text cannot be encoded")]
    Text(#[from] Unrepresentable),
    /// A fitted table or a bank is damaged or of another kind.
    #[error("{what} is unusable: {problem}")]
    Artefact {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Templates do not parse or ask for what no sample has.
    #[error("templates: {problem}")]
    Template {
        /// Task and problem.
        problem: String,
    },
    /// A token id outside its range reached a document.
    #[error("stage {stage} met an id that the vocabulary does not have")]
    Vocabulary {
        /// The stage.
        stage: &'static str,
        /// Range and id.
        #[source]
        source: VocabularyError,
    },
    /// A document that `instruct` should have refused reached `pack`.
    #[error("document {document} has {len} tokens and fits into no pack of {seq_len}")]
    DocumentTooLong {
        /// The document.
        document: cm3flow_schemas::DocumentId,
        /// Its tokens.
        len: usize,
        /// Tokens of a pack.
        seq_len: usize,
    },
    /// A document that does not even have its two boundaries reached `pack`.
    #[error("document {document} has {tokens} tokens and {segments} segments, which is no document")]
    BrokenDocument {
        /// The document.
        document: cm3flow_schemas::DocumentId,
        /// Its tokens.
        tokens: usize,
        /// Its segments.
        segments: usize,
    },
    /// A dataset holds no packs of the split that is asked for.
    #[error("there are no {split} packs to read; the dataset may be too small for this split")]
    NoPacks {
        /// Name of the split.
        split: &'static str,
    },
    /// A mixture of sources makes no sense.
    #[error("mixture: {problem}")]
    Mixture {
        /// What is wrong with it.
        problem: String,
    },
    /// Ranks, workers or batch size make no sense.
    #[error("reader: {problem}")]
    Slice {
        /// The field and its range.
        problem: String,
    },
    /// A reader cannot go on from a state.
    #[error("the state of the reader cannot be used: {problem}")]
    ReaderState {
        /// What is wrong with it.
        problem: String,
    },
    /// An address cannot be read from.
    #[error("cannot read {address}: {problem}")]
    Address {
        /// The address, without secrets.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A record of a store is not what it should be.
    #[error("record {location}: {problem}")]
    Record {
        /// Its path.
        location: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A version is not published.
    #[error("dataset {dataset} has no version {version}; publish it, name another one, or follow the run that makes it")]
    NoVersion {
        /// Name of the dataset.
        dataset: String,
        /// Number or tag.
        version: String,
    },
    /// The version that was published holds other windows than those that were read while it was made.
    #[error(
        "window {window} of version {version} of {dataset} was published as another one than was read while it was made; \
         begin again with the published version"
    )]
    RunChanged {
        /// Name of the dataset.
        dataset: String,
        /// Its number.
        version: u32,
        /// First window that differs.
        window: usize,
    },
    /// A run that is followed has stopped before its windows were complete.
    #[error("the run that is followed has stopped after {windows} windows; start it again or read a published version")]
    RunStopped {
        /// Windows that it committed.
        windows: usize,
    },
    /// A table operation failed.
    #[error("stage {stage} could not join its tables")]
    Table {
        /// The stage.
        stage: &'static str,
        /// The engine's error.
        #[source]
        source: DynError,
    },
    /// Arrow could not assemble or read a batch.
    #[error("arrow failed on {what}")]
    Arrow {
        /// What was read or written.
        what: String,
        /// Arrow's error.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// A shard's block is not what its index says.
    #[error("shard {shard}, block {block}: {problem}")]
    Block {
        /// Digest of the shard.
        shard: String,
        /// Number of the block.
        block: usize,
        /// What is wrong.
        problem: String,
    },
    /// A task of the runtime was cancelled or panicked.
    #[error("a task of stage {stage} did not finish")]
    Task {
        /// The stage.
        stage: &'static str,
        /// The runtime's error.
        #[source]
        source: tokio::task::JoinError,
    },
}

impl StageError {
    /// Whether the same work may succeed when it is tried again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use object_store::Error;
        let Self::Store { source, .. } = self else { return false };
        !matches!(
            source,
            Error::NotFound { .. }
                | Error::InvalidPath { .. }
                | Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }
                | Error::NotSupported { .. }
        )
    }
}
