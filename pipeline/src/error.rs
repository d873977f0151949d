//! Errors of the runtime and the command. [`PipelineError::is_users_mistake`] tells exit code 2 from 1.

use std::net::SocketAddr;
use std::path::PathBuf;

use cm3flow_model::ModelError;
use cm3flow_schemas::unit::NumericsClass;
use cm3flow_schemas::{DynError, LedgerError, SchemaError, VocabularyError};
use cm3flow_stages::StageError;
use thiserror::Error;

/// Result of the runtime.
pub type Result<T, E = PipelineError> = std::result::Result<T, E>;

/// What stops a command.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// A file that the user named cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The system refused something that has nothing to do with what the user asked for.
    #[error("cannot {what}")]
    System {
        /// The action, as `read standard input`.
        what: &'static str,
        /// Answer of the system.
        #[source]
        source: std::io::Error,
    },
    /// A file that the user named holds something else than it should.
    #[error("cannot use {path}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What it holds, and what to do.
        source: DynError,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The configuration is no TOML, or a field is unknown or has another type.
    #[error("{path} is no valid configuration")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        #[source]
        source: toml::de::Error,
    },
    /// Fields of the configuration are out of range.
    #[error("{path} has bad fields:\n  {}", problems.join("\n  "))]
    Config {
        /// The file.
        path: PathBuf,
        /// Each bad field with its path.
        problems: Vec<String>,
    },
    /// An address that no store is known for.
    #[error("{field} = {url:?}: {problem}")]
    Address {
        /// Field of the configuration.
        field: String,
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to export.
    #[error("version {version} has no {splits} packs to export")]
    NoPacks {
        /// The version.
        version: u32,
        /// Names of the splits that were asked for.
        splits: String,
    },
    /// The version does not hold its train documents so often.
    #[error("version {version} has {variants} variants of its train documents (mask.variants), numbered from 0: {asked} is none of them")]
    NoVariant {
        /// The version.
        version: u32,
        /// Number of its variants.
        variants: usize,
        /// What was asked for.
        asked: u16,
    },
    /// An export may only go where nothing is.
    #[error(
        "{address} is not empty; export into a new folder. One without index files is left over from an export that stopped, and can be deleted"
    )]
    NotEmpty {
        /// Where the export was to go.
        address: String,
    },
    /// The store failed.
    #[error("cannot {action} {location}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// Path in the store.
        location: String,
        /// What the store says.
        #[source]
        source: object_store::Error,
    },
    /// Bytes in the store are not what their name says.
    #[error(
        "{location} is damaged: {problem}; `cm3flow versions verify --repair` makes what belongs to a version again, if it can; of a checkpoint, delete the folder that it lies in and run again"
    )]
    Damaged {
        /// Path in the store.
        location: String,
        /// What is wrong.
        problem: String,
    },
    /// A run has begun, and what it will need is not known yet.
    #[error(
        "run {run} has begun and has not planned yet; collect garbage again in a while, or, if that run has died, after the grace period"
    )]
    Planning {
        /// The run.
        run: String,
    },
    /// Objects of versions are damaged.
    #[error("{count} objects are damaged")]
    DamagedObjects {
        /// How many.
        count: usize,
    },
    /// A version that was made again is not equal.
    #[error("made again, version {version} differs; the first object that does: {object}")]
    OtherBytes {
        /// The version.
        version: u32,
        /// Path in the store, or what it is.
        object: String,
    },
    /// A source no longer holds what a unit was made of.
    #[error("{file} of source {name} cannot be read again: {problem}")]
    Gone {
        /// Name of the source.
        name: String,
        /// Name of the file, as it was when the unit was made.
        file: String,
        /// What is missing.
        problem: String,
    },
    /// This machine does not compute the same bits.
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
        /// What it should be.
        expected: &'static str,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A record in the store is of a later format.
    #[error("{location} has format version {found}, this cm3flow reads {expected}; use the one that wrote it, or a later one")]
    Format {
        /// Path in the store.
        location: String,
        /// Version found.
        found: u32,
        /// Version that can be read.
        expected: u32,
    },
    /// A Parquet file cannot be written or read.
    #[error("Parquet failed on {location}")]
    Parquet {
        /// Path in the store, or what the file is.
        location: String,
        /// What the library says.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// Arrow failed.
    #[error("arrow failed on {what}")]
    Arrow {
        /// What was worked on.
        what: &'static str,
        /// What the library says.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// The dataset has no such version.
    #[error("dataset {dataset} has no version {version}; `cm3flow versions list` shows which there are")]
    NoVersion {
        /// The dataset.
        dataset: String,
        /// What was asked for.
        version: String,
    },
    /// The dataset has no version yet.
    #[error("nothing of dataset {dataset} is published yet; `cm3flow run` publishes its first version")]
    NothingPublished {
        /// The dataset.
        dataset: String,
    },
    /// What was asked for is no id.
    #[error("{text:?} is no {kind} id: {expected}; `cm3flow inspect CONFIG` shows some")]
    NoId {
        /// What was asked for.
        text: String,
        /// `sample`, `document` or `pack`.
        kind: &'static str,
        /// What an id looks like.
        expected: &'static str,
    },
    /// Nothing in the version has this id.
    #[error("version {version} has no {kind} {id}{hint}; `cm3flow inspect CONFIG` shows ids of what it has")]
    UnknownId {
        /// `sample`, `document` or `pack`.
        kind: &'static str,
        /// What was asked for.
        id: String,
        /// The version.
        version: u32,
        /// What more can be said, with what joins it to the message; may be empty.
        hint: String,
    },
    /// Several ids begin so.
    #[error("{id} is the beginning of several {kind} ids; give more of it:\n  {}", candidates.join("\n  "))]
    AmbiguousId {
        /// `sample` or `document`.
        kind: &'static str,
        /// What was asked for.
        id: String,
        /// Some of the ids.
        candidates: Vec<String>,
    },
    /// Another run published first.
    #[error("version {version} of {dataset} was published by another run in the meantime; run again to go on from there")]
    Overtaken {
        /// The dataset.
        dataset: String,
        /// The version.
        version: u32,
    },
    /// Another run is at work on the dataset.
    #[error("{run}, {holder}, is at work on {dataset}; let it end, or wait for it with --lease wait")]
    Held {
        /// The dataset.
        dataset: String,
        /// Folder of the run in the store.
        run: String,
        /// Its process.
        holder: String,
    },
    /// Units could not be made; all others were.
    #[error(
        "{samples} samples are quarantined, so version {version} is not published; all other units are made. Mend their cause and run again, which \
         tries them again, or publish without them by --allow-quarantined:\n  {}",
        units.join("\n  ")
    )]
    Quarantined {
        /// The version that is not published.
        version: u32,
        /// Samples of the units.
        samples: u64,
        /// The units with what went wrong.
        units: Vec<String>,
    },
    /// A process that makes units ended, or answered what is no answer.
    #[error("the process that made the unit {problem}")]
    Worker {
        /// What it did.
        problem: String,
        /// Whether other units may be made all the same.
        of_the_unit: bool,
    },
    /// There is no such run.
    #[error("there is no plan of {run} in the store; --run takes the folder of a run that is at work")]
    NoRun {
        /// What was asked for.
        run: String,
    },
    /// A run has no such unit.
    #[error("the plan of {run} has no unit with the key {key}")]
    UnknownUnit {
        /// The run.
        run: String,
        /// What was asked for.
        key: String,
    },
    /// Settings of a fitted artefact changed.
    #[error(
        "{name} was fitted with other settings than those of the configuration; restore them, or run with --refit to start a new line of versions"
    )]
    Pinned {
        /// Name of the artefact.
        name: String,
    },
    /// There is nothing to fit on.
    #[error(
        "no sample is left to fit {name} on: all of the first {seen} were refused or held out; refused: {refused}. Look at the source and at the [filter] and [split] settings"
    )]
    NothingToFit {
        /// Name of the artefact.
        name: &'static str,
        /// Samples looked at.
        seen: u64,
        /// Reasons of refusal with counts and a first detail each.
        refused: String,
    },
    /// An artefact is given, so it is not fitted.
    #[error("the {name} is given by {field} ({}), so there is nothing to fit; take the field out to fit one", path.display())]
    Given {
        /// Name of the artefact.
        name: &'static str,
        /// Field that names the file.
        field: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Tokenizers and vocabulary do not fit together.
    #[error("{problem}")]
    Mismatch {
        /// What does not fit what.
        problem: String,
    },
    /// Nothing is left after filtering.
    #[error("no document came into a pack to train on; {account}. Look at the [filter], [split], [instruct] and [pack] settings")]
    NothingKept {
        /// Where samples and documents went, by reason.
        account: String,
    },
    /// More was refused than allowed.
    #[error(
        "{refused} of {input} samples were refused, more than runtime.max_refused_fraction = {max_fraction} allows: {reasons}; nothing was published. `cm3flow refused list CONFIG --unpublished` shows which; mend the sources or settings, or allow more, and run again"
    )]
    RefusedTooMuch {
        /// Samples looked at.
        input: u64,
        /// Samples refused.
        refused: u64,
        /// Fraction that is allowed.
        max_fraction: f64,
        /// The most frequent reasons with their counts.
        reasons: String,
    },
    /// Metrics cannot be offered.
    #[error("cannot offer metrics at {address}; choose another address by runtime.metrics or --metrics")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system says.
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
    /// Columns are missing or of another type.
    #[error("a table does not have the columns that it should")]
    Schema(#[from] SchemaError),
    /// Numbers do not add up.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Ids do not fit.
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
        /// The task.
        what: &'static str,
    },
}

impl PipelineError {
    /// Whether the error is that of one unit: others may be made all the same.
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

    /// Exit code of a command that it stops: 3 for units that are quarantined, 2 for the user's mistakes, 1 for everything else.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Quarantined { .. } => 3,
            _ if self.is_users_mistake() => 2,
            _ => 1,
        }
    }

    /// The message with those of its causes, each once.
    #[must_use]
    pub fn with_causes(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            // libtorch appends the stack of its C++ to what it says.
            let said = message.split("\nException raised from ").next().unwrap_or_default().trim();
            if !line.contains(said) {
                line.push_str(": ");
                line.push_str(said);
            }
            cause = error.source();
        }
        line
    }

    /// Whether the user can mend it by changing the configuration, the command line or the input.
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
                | Self::Mismatch { .. }
                | Self::Stage(StageError::Source { .. })
        )
    }
}
