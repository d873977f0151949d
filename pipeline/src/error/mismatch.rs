//! Things that do not fit each other: configuration, tokenizers, vocabulary, versions, runs.

use cm3flow_schemas::{ParseIdError, VocabularyError};
use thiserror::Error;

/// Something that the user asked for does not fit something else.
#[derive(Debug, Error)]
pub enum Mismatch {
    /// A unit is of a source that the configuration lacks.
    #[error("the configuration has no source {name:?}, of which a unit is to be read")]
    NoSource {
        /// Name of the source.
        name: String,
    },
    /// A process that makes units gets other keys than the run.
    #[error(
        "the configuration, or what this machine computes with, gives other keys than the plan of the run has; workers need the very configuration of the run and machines of its numerics class"
    )]
    OtherKeys,
    /// A line on standard input names no unit.
    #[error("no key")]
    NoKey {
        /// Error of the parser.
        source: ParseIdError,
    },
    /// Processes are asked for where none can be started.
    #[error("runtime.processes asks for processes, which need the command `cm3flow run` and a store outside of memory")]
    NoProcesses,
    /// The configuration has nothing to train.
    #[error("the configuration has no [train] section")]
    NoTrainSection,
    /// A version has packs of another length.
    #[error("pack.seq_len is {ours} in the configuration, version {version} has {theirs}")]
    OtherSeqLen {
        /// Length in the configuration.
        ours: u32,
        /// Length in the version.
        theirs: u32,
        /// Number of the version.
        version: u32,
    },
    /// No checkpoint, or more than one, has that name.
    #[error("{wanted} names no single checkpoint of dataset {dataset}; there are {}", if there.is_empty() { "none" } else { there })]
    NoCheckpoint {
        /// Name of the dataset.
        dataset: String,
        /// The name.
        wanted: String,
        /// Trainings with their steps.
        there: String,
    },
    /// A checkpoint was trained with another vocabulary.
    #[error("the checkpoint was trained with another vocabulary than the configuration has now")]
    OtherCheckpointVocabulary {
        /// First difference.
        source: VocabularyError,
    },
    /// Tokenizers are neither given nor fitted.
    #[error("the tokenizers of this configuration are neither given nor fitted; `cm3flow fit` fits them")]
    NotFitted,
    /// The configuration does not fit this artefact.
    #[error("this configuration does not fit the {name}")]
    NothingToFit {
        /// Name of the artefact.
        name: String,
    },
    /// Codes are given, so there is no codebook.
    #[error("tokenize.image.kind = \"given\" encodes nothing, so there is no codebook to fit; name another kind to fit one")]
    NoCodebook,
    /// The configuration fits an artefact that was given when the version was made.
    #[error("the configuration fits the {name}, version {version} was made with a given one")]
    FittedHere {
        /// Name of the artefact.
        name: &'static str,
        /// Number of the version.
        version: u32,
    },
    /// The version was made with another artefact.
    #[error("version {version} was made with another {name} than the configuration and its pins have now")]
    OtherArtefact {
        /// Name of the artefact.
        name: String,
        /// Number of the version.
        version: u32,
    },
    /// The version was made with another annotator.
    #[error("version {version} was made with another module or settings of annotate.{role}")]
    OtherAnnotator {
        /// Role of its pictures.
        role: String,
        /// Number of the version.
        version: u32,
    },
    /// The version was made with an annotator that the configuration lacks.
    #[error("version {version} was made with an annotator for {role}; name its module under annotate.{role}")]
    NoAnnotator {
        /// Role of its pictures.
        role: String,
        /// Number of the version.
        version: u32,
    },
    /// The version has another vocabulary.
    #[error("version {version} has another vocabulary than the configuration asks for (with that as here)")]
    OtherVocabulary {
        /// Number of the version.
        version: u32,
        /// The first difference.
        source: VocabularyError,
    },
    /// Ranges of the vocabulary overlap or leave it.
    #[error("[vocabulary] contradicts itself")]
    Contradiction {
        /// The contradiction.
        source: VocabularyError,
    },
    /// A tokenizer has more ids than the vocabulary has room for.
    #[error("the {tokenizer} has {ids} ids, the vocabulary {vocabulary:?} has room for {room}")]
    NoRoom {
        /// `text tokenizer` or `image tokenizer`.
        tokenizer: &'static str,
        /// Number of its ids.
        ids: u32,
        /// Name of the vocabulary.
        vocabulary: String,
        /// Ids that the vocabulary has for it.
        room: u32,
    },
    /// A spelled-out vocabulary has other shapes than the image tokenizer.
    #[error("vocabulary.custom.shapes.grids are not those of tokenize.image.aspect_buckets")]
    OtherShapes,
    /// The text tokenizer lacks Chameleon's tokens.
    #[error("tokenize.text.file is no tokenizer of Chameleon's")]
    NotChameleon {
        /// The first token that it lacks.
        source: VocabularyError,
    },
    /// Ids of a list of tokens do not follow each other.
    #[error("ids of vocabulary.{field} must follow each other, {id} stands behind {before}")]
    Scattered {
        /// Field of `[vocabulary]`.
        field: String,
        /// The first id that does not follow.
        id: u32,
        /// The id before it.
        before: u32,
    },
    /// The text tokenizer lacks a token that the vocabulary names.
    #[error("the text tokenizer has no token {token} that [vocabulary] names")]
    NoToken {
        /// The token, as the configuration names it.
        token: String,
    },
}
