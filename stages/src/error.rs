//! Errors of stages. A bad row is no error: it gets a refusal and goes to the ledger.

use cm3flow_schemas::{DynError, SchemaError, VocabularyError};
use thiserror::Error;

/// Result of stages, sources and readers.
pub type Result<T, E = StageError> = std::result::Result<T, E>;

/// Reason of a text that has no tokens.
#[cfg(feature = "prepare")]
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum Unrepresentable {
    /// The tokenizer has no token for a part of the text.
    #[error("the text tokenizer has no token for a part of the text: {problem}")]
    Unknown {
        /// Message of the tokenizer.
        problem: String,
    },
    /// The tokenizer returned an id that is no text.
    #[error("the text tokenizer made id {id} of the text, which is no text")]
    Control {
        /// Id that was returned.
        id: u32,
    },
    /// The tokens decode to another text.
    #[error("the text tokenizer changes the text, for the first time at character {at}")]
    Changed {
        /// Index of the first differing character in the normalized text, from 0.
        at: usize,
    },
}

/// Reason of a picture that cannot be decoded: a name for counts, and details.
#[cfg(feature = "prepare")]
pub type DecodeError = (&'static str, String);

/// Failure that stops a stage, a source or a reader.
#[derive(Debug, Error)]
pub enum StageError {
    /// The receiver of a stage's batches is gone; its own error tells why.
    #[error("the next stage has stopped")]
    DownstreamClosed,
    /// A batch lacks columns of the stage.
    #[error("stage {stage} cannot work on its input")]
    Schema {
        /// Name of the stage.
        stage: &'static str,
        /// Missing or mistyped column.
        #[source]
        source: SchemaError,
    },
    /// The store could not be read.
    #[error("cannot read {location}")]
    Store {
        /// Address or path.
        location: String,
        /// Error of the store.
        #[source]
        source: object_store::Error,
    },
    /// The address or content of a source is unusable.
    #[error("source {name}: {problem}")]
    Source {
        /// Name of the source in the configuration.
        name: String,
        /// Problem and remedy.
        problem: String,
    },
    /// A file of a source differs from the one that the run was planned on.
    #[error("source {source_name}: {file} has changed since the run was planned: {problem}; run again to plan it anew")]
    Changed {
        /// Name of the source in the configuration.
        source_name: String,
        /// Name of the file in the source.
        file: String,
        /// Difference that was found.
        problem: String,
    },
    /// A file could not be read in the expected format.
    #[error("cannot read {location}")]
    Read {
        /// Address or path.
        location: String,
        /// Error of the reader.
        #[source]
        source: std::io::Error,
    },
    /// A model behind one of the traits failed.
    #[error("{component} failed in stage {stage}")]
    Model {
        /// Name of the stage.
        stage: &'static str,
        /// Kind of model that was called.
        component: &'static str,
        /// Error of the model.
        #[source]
        source: DynError,
    },
    /// A call of a model panicked; the log has the place.
    #[error("{owner} panicked: {problem}")]
    OwnerPanicked {
        /// Name of the thread that owns the model.
        owner: &'static str,
        /// Message of the panic.
        problem: String,
    },
    /// A text tokenizer could not be fitted, loaded or used.
    #[error("text tokenizer: {action}")]
    TextTokenizer {
        /// Attempted step.
        action: &'static str,
        /// Error of the library.
        #[source]
        source: DynError,
    },
    /// A text cannot be encoded, although it could before.
    #[cfg(feature = "prepare")]
    #[error("a text cannot be encoded")]
    Text(#[from] Unrepresentable),
    /// A fitted table or a bank is damaged or of another kind.
    #[error("{what} is unusable: {problem}")]
    Artefact {
        /// Expected kind.
        what: &'static str,
        /// Defect that was found.
        problem: String,
    },
    /// Templates do not parse, or use content that no sample has.
    #[error("templates: {problem}")]
    Template {
        /// Task and problem.
        problem: String,
    },
    /// A token id outside its range reached a document.
    #[error("stage {stage} met an id that the vocabulary does not have")]
    Vocabulary {
        /// Name of the stage.
        stage: &'static str,
        /// Range and id.
        #[source]
        source: VocabularyError,
    },
    /// A document that `instruct` should have refused reached `pack`.
    #[error("document {document} has {len} tokens and fits into no pack of {seq_len}")]
    DocumentTooLong {
        /// Id of the document.
        document: cm3flow_schemas::DocumentId,
        /// Number of its tokens.
        len: usize,
        /// Number of tokens in a pack.
        seq_len: usize,
    },
    /// A document without its two boundaries reached `pack`.
    #[error("document {document} has {tokens} tokens and {segments} segments, which is no document")]
    BrokenDocument {
        /// Id of the document.
        document: cm3flow_schemas::DocumentId,
        /// Number of its tokens.
        tokens: usize,
        /// Number of its segments.
        segments: usize,
    },
    /// The dataset has no packs of the requested split.
    #[error("there are no {split} packs to read; the dataset may be too small for this split")]
    NoPacks {
        /// Name of the split.
        split: &'static str,
    },
    /// A mixture of sources is invalid.
    #[error("mixture: {problem}")]
    Mixture {
        /// Field and range, or the conflict.
        problem: String,
    },
    /// Ranks, workers or batch size are invalid.
    #[error("reader: {problem}")]
    Slice {
        /// Field and range.
        problem: String,
    },
    /// A reader cannot continue from a state.
    #[error("the state of the reader cannot be used: {problem}")]
    ReaderState {
        /// Mismatch that was found.
        problem: String,
    },
    /// An address cannot be read from.
    #[error("cannot read {address}: {problem}")]
    Address {
        /// Address without secrets.
        address: String,
        /// Reason for people.
        problem: String,
    },
    /// A record of a store has another content than expected.
    #[error("record {location}: {problem}")]
    Record {
        /// Path of the record.
        location: String,
        /// Defect that was found.
        problem: String,
    },
    /// The requested version is not published.
    #[error("dataset {dataset} has no version {version}; publish it, name another one, or follow the run that makes it")]
    NoVersion {
        /// Name of the dataset.
        dataset: String,
        /// Number or tag.
        version: String,
    },
    /// The published version has other windows than those that were read during its run.
    #[error(
        "window {window} of version {version} of {dataset} was published as another one than was read while it was made; \
         begin again with the published version"
    )]
    RunChanged {
        /// Name of the dataset.
        dataset: String,
        /// Number of the version.
        version: u32,
        /// Index of the first window that differs.
        window: usize,
    },
    /// A followed run stopped before its windows were complete.
    #[error("the run that is followed has stopped after {windows} windows; start it again or read a published version")]
    RunStopped {
        /// Number of windows that the run committed.
        windows: usize,
    },
    /// A table operation failed.
    #[error("stage {stage} could not join its tables")]
    Table {
        /// Name of the stage.
        stage: &'static str,
        /// Error of the engine.
        #[source]
        source: DynError,
    },
    /// Arrow could not assemble or read a batch.
    #[error("arrow failed on {what}")]
    Arrow {
        /// Content in work.
        what: String,
        /// Error of Arrow.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// A block of a shard does not match the index.
    #[error("shard {shard}, block {block}: {problem}")]
    Block {
        /// Digest of the shard.
        shard: String,
        /// Index of the block in the shard.
        block: usize,
        /// Mismatch that was found.
        problem: String,
    },
    /// A task of the runtime was cancelled or panicked.
    #[error("a task of stage {stage} did not finish")]
    Task {
        /// Name of the stage.
        stage: &'static str,
        /// Error of the runtime.
        #[source]
        source: tokio::task::JoinError,
    },
}

impl StageError {
    /// Checks whether the same work may succeed on another attempt.
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
