//! Errors of the runtime and the command. [`PipelineError::is_users_mistake`] tells exit code 2 from 1.

mod mismatch;

use std::net::SocketAddr;
use std::path::PathBuf;

use cm3flow_model::ModelError;
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::{DynError, LedgerError, SchemaError, VocabularyError};
use cm3flow_stages::StageError;
use thiserror::Error;

pub use mismatch::Mismatch;

/// Result of the runtime.
pub type Result<T, E = PipelineError> = std::result::Result<T, E>;

/// Cause that stops a command.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// A file named by the user cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The operating system refused an action that no input of the user caused.
    #[error("cannot {what}")]
    System {
        /// The action, as `read standard input`.
        what: &'static str,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A file named by the user has another content than expected.
    #[error("cannot use {path}")]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Description of the content and advice.
        source: DynError,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The configuration is no TOML, or a field is unknown or has another type.
    #[error("{path} is no valid configuration")]
    Syntax {
        /// Path of the configuration.
        path: PathBuf,
        /// Error of the parser, with line and column.
        #[source]
        source: toml::de::Error,
    },
    /// Fields of the configuration are out of range.
    #[error("{path} has bad fields:\n  {}", problems.join("\n  "))]
    Config {
        /// Path of the configuration.
        path: PathBuf,
        /// Bad fields, one line each, with their paths.
        problems: Vec<String>,
    },
    /// An address leads to no known kind of store.
    #[error("{field} = {url:?}: {problem}")]
    Address {
        /// Field of the configuration that holds the address.
        field: String,
        /// Address as written.
        url: String,
        /// Reason of refusal.
        problem: String,
    },
    /// The version has no packs of the requested splits.
    #[error("version {version} has no {splits} packs to export")]
    NoPacks {
        /// Number of the version.
        version: u32,
        /// Names of the requested splits.
        splits: String,
    },
    /// The version has fewer variants of its train documents.
    #[error("version {version} has {variants} variants of its train documents (mask.variants), numbered from 0: {asked} is none of them")]
    NoVariant {
        /// Number of the version.
        version: u32,
        /// Number of its variants.
        variants: usize,
        /// Requested variant, from 0.
        asked: u16,
    },
    /// The target of an export is not empty.
    #[error(
        "{address} is not empty; export into a new folder. One that an export left when it stopped, without an index or cm3flow.json, can be deleted"
    )]
    NotEmpty {
        /// Address of the target.
        address: String,
    },
    /// The store failed.
    #[error("cannot {action} {location}")]
    Store {
        /// Action that failed.
        action: &'static str,
        /// Path in the store.
        location: String,
        /// Error of the store.
        #[source]
        source: object_store::Error,
    },
    /// Bytes in the store do not fit their digest or format.
    #[error(
        "{location} is damaged: {problem}; `cm3flow versions verify --repair` makes what belongs to a version again, if it can; of a checkpoint, delete the folder that it lies in and run again"
    )]
    Damaged {
        /// Path in the store.
        location: String,
        /// Difference from the expected content.
        problem: String,
    },
    /// A run has begun and has not recorded its plan, so gc cannot tell which objects that run needs.
    #[error(
        "run {run} has begun and has not planned yet; collect garbage again in a while, or, if that run has died, after the grace period"
    )]
    Planning {
        /// Folder of the run.
        run: String,
    },
    /// Objects of versions are damaged.
    #[error("{count} objects are damaged")]
    DamagedObjects {
        /// Number of damaged objects.
        count: usize,
    },
    /// A rebuilt version has other bytes than the original.
    #[error("made again, version {version} differs; the first object that does: {object}")]
    OtherBytes {
        /// Number of the version.
        version: u32,
        /// Path in the store of the first different object, or its kind.
        object: String,
    },
    /// A source no longer holds the samples of a unit.
    #[error("{file} of source {name} cannot be read again: {problem}")]
    Gone {
        /// Name of the source.
        name: String,
        /// Name of the file, as it was when the unit was made.
        file: String,
        /// Missing samples.
        problem: String,
    },
    /// This machine computes in another numerics class than the one that made the version.
    #[error(
        "equal bytes cannot be made here: the version was made in another numerics class ({theirs}) than this machine's ({ours}); use a machine like the one that made it"
    )]
    Numerics {
        /// Class of the version.
        theirs: Box<NumericsClass>,
        /// Class of this machine under this configuration.
        ours: Box<NumericsClass>,
    },
    /// A record in the store cannot be read.
    #[error("{location} is no {expected} of this format")]
    Record {
        /// Path in the store.
        location: String,
        /// Expected kind of record.
        expected: &'static str,
        /// Error of the parser.
        #[source]
        source: serde_json::Error,
    },
    /// A record in the store has a later format.
    #[error("{location} has format version {found}, this cm3flow reads {expected}; use the one that wrote it, or a later one")]
    Format {
        /// Path in the store.
        location: String,
        /// Format version of the record.
        found: u32,
        /// Format version that this program reads.
        expected: u32,
    },
    /// A Parquet file cannot be written or read.
    #[error("Parquet failed on {location}")]
    Parquet {
        /// Path in the store, or a description of the file.
        location: String,
        /// Error of the Parquet library.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// An Arrow operation failed.
    #[error("arrow failed on {what}")]
    Arrow {
        /// Table or operation that failed.
        what: &'static str,
        /// Error of the Arrow library.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// The dataset has no such version.
    #[error("dataset {dataset} has no version {version}; `cm3flow versions list` shows which there are")]
    NoVersion {
        /// Name of the dataset.
        dataset: String,
        /// Requested version, a number or tag.
        version: String,
    },
    /// The dataset has no version yet.
    #[error("nothing of dataset {dataset} is published yet; `cm3flow run` publishes its first version")]
    NothingPublished {
        /// Name of the dataset.
        dataset: String,
    },
    /// The text is no id of this kind.
    #[error("{text:?} is no {kind} id: {expected}; `cm3flow inspect CONFIG` shows some")]
    NoId {
        /// Text as given.
        text: String,
        /// `sample`, `document` or `pack`.
        kind: &'static str,
        /// Form of a valid id.
        expected: &'static str,
    },
    /// Nothing in the version has this id.
    #[error("version {version} has no {kind} {id}{hint}; `cm3flow inspect CONFIG` shows ids of what it has")]
    UnknownId {
        /// `sample`, `document` or `pack`.
        kind: &'static str,
        /// Id as given.
        id: String,
        /// Number of the version.
        version: u32,
        /// Further hint with its leading separator; may be empty.
        hint: String,
    },
    /// Several ids begin with the given text.
    #[error("{id} is the beginning of several {kind} ids; give more of it:\n  {}", candidates.join("\n  "))]
    AmbiguousId {
        /// `sample` or `document`.
        kind: &'static str,
        /// Text as given.
        id: String,
        /// Some of the matching ids.
        candidates: Vec<String>,
    },
    /// Another run published this version first.
    #[error("version {version} of {dataset} was published by another run in the meantime; run again to go on from there")]
    Overtaken {
        /// Name of the dataset.
        dataset: String,
        /// Number of the version.
        version: u32,
    },
    /// Another run is at work on the dataset.
    #[error("{run}, {holder}, is at work on {dataset}; let it end, or wait for it with --lease wait")]
    Held {
        /// Name of the dataset.
        dataset: String,
        /// Folder of the run in the store.
        run: String,
        /// Process and host of that run.
        holder: String,
    },
    /// Some units could not be made; all others were.
    #[error(
        "{samples} samples are quarantined, so version {version} is not published; all other units are made. Mend their cause and run again, which \
         tries them again, or publish without them by --allow-quarantined:\n  {}",
        units.join("\n  ")
    )]
    Quarantined {
        /// The version that is not published.
        version: u32,
        /// Number of samples in these units.
        samples: u64,
        /// Units, each with its problem.
        units: Vec<String>,
    },
    /// A process that makes units ended, or answered a line that is no answer.
    #[error("the process that made the unit {problem}")]
    Worker {
        /// Description of the failure, as the end of a sentence.
        problem: String,
        /// `true` if other units can still be made.
        of_the_unit: bool,
    },
    /// The store holds no plan of this run.
    #[error("there is no plan of {run} in the store; --run takes the folder of a run that is at work")]
    NoRun {
        /// Folder of the run as given.
        run: String,
    },
    /// The plan of a run has no unit with this key.
    #[error("the plan of {run} has no unit with the key {key}")]
    UnknownUnit {
        /// Folder of the run.
        run: String,
        /// Key as given.
        key: String,
    },
    /// The configuration has other settings than those that fitted a pinned artefact.
    #[error(
        "{name} was fitted with other settings than those of the configuration; restore them, or run with --refit to start a new line of versions"
    )]
    Pinned {
        /// Name of the artefact.
        name: String,
    },
    /// No sample is left to fit an artefact on.
    #[error(
        "no sample is left to fit {name} on: all of the first {seen} were refused or held out; refused: {refused}. Look at the source and at the [filter] and [split] settings"
    )]
    NothingToFit {
        /// Name of the artefact.
        name: &'static str,
        /// Number of samples read.
        seen: u64,
        /// Reasons of refusal, each with its count and a first detail.
        refused: String,
    },
    /// The configuration gives an artefact that was to be fitted.
    #[error("the {name} is given by {field} ({}), so there is nothing to fit; take the field out to fit one", path.display())]
    Given {
        /// Name of the artefact.
        name: &'static str,
        /// Field that names the file.
        field: &'static str,
        /// Path of the file.
        path: PathBuf,
    },
    /// Things that the user asked for do not fit each other.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// No document was packed for training.
    #[error("no document came into a pack to train on; {account}. Look at the [filter], [split], [instruct] and [pack] settings")]
    NothingKept {
        /// Fate of samples and documents, by reason.
        account: String,
    },
    /// The run refused a larger fraction of samples than allowed.
    #[error(
        "{refused} of {input} samples were refused, more than runtime.max_refused_fraction = {max_fraction} allows: {reasons}; nothing was published. `cm3flow refused list CONFIG --unpublished` shows which; mend the sources or settings, or allow more, and run again"
    )]
    RefusedTooMuch {
        /// Number of samples prepared.
        input: u64,
        /// Number of samples refused.
        refused: u64,
        /// Allowed fraction, 0 to 1.
        max_fraction: f64,
        /// The most frequent reasons with their counts.
        reasons: String,
    },
    /// The endpoint for metrics cannot listen.
    #[error("cannot offer metrics at {address}; choose another address by runtime.metrics or --metrics")]
    Metrics {
        /// Address that was asked for.
        address: SocketAddr,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A signal ended the command.
    #[error("stopped by a signal; what is committed stays, run again to go on")]
    Interrupted,
    /// A stage failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A table lacks columns or has columns of another type.
    #[error("a table does not have the columns that it should")]
    Schema(#[from] SchemaError),
    /// Counts of a ledger do not add up.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Token ids do not fit the vocabulary.
    #[error("the vocabulary does not fit")]
    Vocabulary(#[from] VocabularyError),
    /// The trainer failed.
    #[error("training failed")]
    Training(#[source] DynError),
    /// The report could not be drawn.
    #[error("the report could not be written")]
    Report(#[source] DynError),
    /// A picture could not be encoded.
    #[error("a picture could not be encoded")]
    Picture(#[source] image::ImageError),
    /// A task or thread ended without result.
    #[error("{what} ended without result")]
    Lost {
        /// Name of the task or thread.
        what: &'static str,
    },
}

impl PipelineError {
    /// Checks whether the error concerns one unit alone: others can still be made.
    #[must_use]
    pub const fn is_of_the_unit(&self) -> bool {
        use StageError::{
            Arrow, BrokenDocument, Changed, DocumentTooLong, Model, OwnerPanicked, Read, Schema, Store, Table, Task, Template, Text,
            TextTokenizer, Vocabulary,
        };
        match self {
            Self::Worker { of_the_unit, .. } => *of_the_unit,
            Self::Arrow { .. } | Self::Parquet { .. } | Self::Schema(_) | Self::Vocabulary(_) => true,
            Self::Stage(Store { source, .. }) => matches!(source, object_store::Error::NotFound { .. }),
            Self::Stage(error) => matches!(
                error,
                Schema { .. }
                    | Changed { .. }
                    | Read { .. }
                    | Model { .. }
                    | OwnerPanicked { .. }
                    | TextTokenizer { .. }
                    | Text(_)
                    | Template { .. }
                    | Vocabulary { .. }
                    | DocumentTooLong { .. }
                    | BrokenDocument { .. }
                    | Table { .. }
                    | Arrow { .. }
                    | Task { .. }
            ),
            _ => false,
        }
    }

    /// Returns the exit code of a command that the error stops: 3 for quarantined units, 2 for user's mistakes, 1 for all others.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Quarantined { .. } => 3,
            _ if self.is_users_mistake() => 2,
            _ => 1,
        }
    }

    /// Returns the message followed by those of its causes, each once.
    #[must_use]
    pub fn with_causes(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            // libtorch appends the stack of its C++ code to its messages.
            let said = message.split("\nException raised from ").next().unwrap_or_default().trim();
            if !line.contains(said) {
                line.push_str(": ");
                line.push_str(said);
            }
            cause = error.source();
        }
        line
    }

    /// Checks whether the user can mend the cause in the configuration, the command line or the input.
    #[must_use]
    pub const fn is_users_mistake(&self) -> bool {
        matches!(
            self,
            Self::File { .. }
                | Self::Unusable { .. }
                | Self::Write { .. }
                | Self::Syntax { .. }
                | Self::Config { .. }
                | Self::Address { .. }
                | Self::NoPacks { .. }
                | Self::NoVariant { .. }
                | Self::NotEmpty { .. }
                | Self::NoVersion { .. }
                | Self::NothingPublished { .. }
                | Self::NoRun { .. }
                | Self::UnknownUnit { .. }
                | Self::NoId { .. }
                | Self::UnknownId { .. }
                | Self::AmbiguousId { .. }
                | Self::Pinned { .. }
                | Self::NothingToFit { .. }
                | Self::Given { .. }
                | Self::Metrics { .. }
                | Self::NothingKept { .. }
                | Self::Mismatch(_)
                | Self::Stage(StageError::Source { .. })
        )
    }
}
