//! Errors of the contracts: batches without a column, documents that break the grammar, counts that do not add up.

use thiserror::Error;

/// Error type of the traits in [`crate::traits`]: each implementor boxes its own typed error.
pub type DynError = Box<dyn std::error::Error + Send + Sync>;

/// A record batch without the columns that a stage requires.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// The batch has no column of that name.
    #[error("column {column} is missing; the batch has {present}")]
    MissingColumn {
        /// Name of the missing column.
        column: String,
        /// Names of the columns that the batch has, comma-separated.
        present: String,
    },
    /// The batch has the column with another type.
    #[error("column {column} has type {found}, expected {expected}")]
    WrongType {
        /// Name of the column.
        column: String,
        /// Required type, as Arrow prints it.
        expected: String,
        /// Actual type, as Arrow prints it.
        found: String,
    },
    /// Rows could not be converted to arrays or back.
    #[error("cannot convert between rows and columns {columns}")]
    Rows {
        /// Names of the columns, comma-separated.
        columns: String,
        /// Cause given by serde_arrow.
        #[source]
        source: serde_arrow::Error,
    },
    /// Arrow refused to assemble the arrays.
    #[error("cannot assemble a record batch")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// Text that is no digest or id.
#[derive(Debug, Error)]
#[error("{text:?} is no {expected}")]
pub struct ParseIdError {
    /// Text as it was given.
    pub text: String,
    /// Expected form, with its length.
    pub expected: &'static str,
}

/// A vocabulary that contradicts itself, or an id outside its range.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VocabularyError {
    /// An image whose codes and grid do not match, or ids that are not one whole image.
    #[error("no image: {problem}")]
    Image {
        /// Violated rule, with the numbers.
        problem: String,
    },
    /// Image shapes that contradict themselves.
    #[error("vocabulary shapes: {problem}")]
    Shapes {
        /// Violated rule, with the numbers.
        problem: String,
    },
    /// Two ranges share an id.
    #[error("vocabulary ranges {first} and {second} overlap at id {id}")]
    Overlap {
        /// Name of the lower range.
        first: String,
        /// Name of the higher range.
        second: String,
        /// First shared id.
        id: u32,
    },
    /// A range ends behind the vocabulary's last id.
    #[error("vocabulary range {range} ends at id {end}, but the vocabulary has {size} ids")]
    TooLarge {
        /// Name of the range.
        range: String,
        /// One past the last id of the range.
        end: u32,
        /// Number of ids in the vocabulary.
        size: u32,
    },
    /// A token or code is outside its range.
    #[error("{range} token {value} is out of range 0..{len}")]
    OutOfRange {
        /// Name of the range.
        range: String,
        /// Offending value, counted from the start of the range.
        value: u32,
        /// Length of the range.
        len: u32,
    },
    /// An id lies outside the range that it should belong to.
    #[error("id {id} is no id of the {range} range")]
    Foreign {
        /// Name of the range.
        range: String,
        /// Offending id.
        id: u32,
    },
    /// The order of the codes is no permutation of the image range.
    #[error("image_order is no order of the image range: {problem}")]
    Order {
        /// Violated rule, with the numbers.
        problem: String,
    },
    /// A further modality has a reserved name or none.
    #[error("a further modality cannot be called {name:?}; give it a name other than text, image and sentinels")]
    Modality {
        /// Refused name.
        name: String,
    },
    /// The names in a tokenizer do not make a vocabulary.
    #[error("token {name} cannot be placed: {problem}")]
    Name {
        /// Name of the token.
        name: String,
        /// Missing, doubled or misplaced name.
        problem: String,
    },
    /// Two vocabularies differ that should be equal.
    #[error("vocabularies differ in {field}: {ours} here, {theirs} there")]
    Different {
        /// Name of the first differing field.
        field: String,
        /// Value on this side.
        ours: String,
        /// Value on the other side.
        theirs: String,
    },
}

/// A token sequence that is no document. Positions count from its first token.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    /// The document does not open and close with the boundary token.
    #[error("document must open and close with the boundary token, found {found} at {position}")]
    Boundary {
        /// Index of the token.
        position: usize,
        /// Id at that index.
        found: u32,
    },
    /// Segments leave a gap, overlap, or do not end where the tokens end.
    #[error("segments must cover the tokens without gap, broken at token {position}")]
    Coverage {
        /// First token that is not covered exactly once.
        position: usize,
    },
    /// A token's id does not fit the modality of its segment.
    #[error("token {id} at {position} is no {modality} token")]
    Modality {
        /// Index of the token.
        position: usize,
        /// Id of the token.
        id: u32,
        /// Modality of the segment.
        modality: &'static str,
    },
    /// An image outside of brackets, or unpaired brackets.
    #[error("images must stand between their brackets, broken at token {position}: {problem}")]
    Brackets {
        /// Index of the token.
        position: usize,
        /// Violated rule.
        problem: &'static str,
    },
    /// An image whose size, rows and row ends do not match.
    #[error("image is broken at token {position}: {problem}")]
    Image {
        /// Index of the token in the unmasked document.
        position: usize,
        /// Violated rule.
        problem: &'static str,
    },
    /// A sentinel does not stand exactly once in body and tail.
    #[error("sentinel {number} stands {body} times in the body and {tail} times in the tail")]
    Sentinel {
        /// Number of the sentinel.
        number: u32,
        /// Occurrences before the tail.
        body: usize,
        /// Occurrences in the tail.
        tail: usize,
    },
}

/// Counts that do not add up.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LedgerError {
    /// A sample was lost or counted twice.
    #[error("samples of {scope} do not balance: {ledger}")]
    Samples {
        /// Unit, window or version.
        scope: String,
        /// Line of the ledger's numbers.
        ledger: String,
    },
    /// A document was lost or counted twice.
    #[error("documents of {scope} do not balance: built {built}, packed {packed}, refused {refused}, withdrawn {withdrawn}")]
    Documents {
        /// Unit, window or version.
        scope: String,
        /// Documents built.
        built: u64,
        /// Documents packed.
        packed: u64,
        /// Documents refused.
        refused: u64,
        /// Documents withdrawn.
        withdrawn: u64,
    },
}
