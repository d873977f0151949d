//! Errors of the contracts: a batch that lacks a column, a document that breaks its grammar, numbers that do not add up.

use thiserror::Error;

use crate::grid::Grid;

/// The error type of the traits in [`crate::traits`]: each implementor has its own typed error behind it.
pub type DynError = Box<dyn std::error::Error + Send + Sync>;

/// Pixels or codes that a model does not take as images.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageInputError {
    /// Images of a grid that the model does not have.
    #[error("{model} takes {takes}, no image of {grid} codes")]
    Grid {
        /// Name of the model.
        model: String,
        /// Images that it takes.
        takes: &'static str,
        /// Grid asked for.
        grid: Grid,
    },
    /// Pixels that are no whole number of images.
    #[error("{bytes} bytes of pixels are no whole number of images of {bytes_per_image} bytes")]
    Pixels {
        /// Bytes given.
        bytes: usize,
        /// Bytes of one image.
        bytes_per_image: usize,
    },
    /// Codes that are no whole number of images.
    #[error("{codes} codes are no whole number of images of {codes_per_image} codes")]
    Codes {
        /// Codes given.
        codes: usize,
        /// Codes of one image.
        codes_per_image: usize,
    },
    /// A code that the codebook does not have.
    #[error("code {code} at {position} is out of range 0..{codebook_size}")]
    CodeOutOfRange {
        /// Index of the code.
        position: usize,
        /// The code.
        code: u32,
        /// Number of codes.
        codebook_size: u32,
    },
}

/// A record batch that does not have the columns that a stage asks for.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// The batch has no column of that name.
    #[error("column {column} is missing; the batch has {present}")]
    MissingColumn {
        /// Name of the column asked for.
        column: String,
        /// Names of the columns that are there, comma-separated.
        present: String,
    },
    /// The column is there with another type.
    #[error("column {column} has type {found}, expected {expected}")]
    WrongType {
        /// Name of the column.
        column: String,
        /// Type asked for, as Arrow prints it.
        expected: String,
        /// Type found, as Arrow prints it.
        found: String,
    },
    /// Rows could not be turned into arrays or back.
    #[error("cannot convert between rows and columns {columns}")]
    Rows {
        /// Columns in question, comma-separated.
        columns: String,
        /// What serde_arrow says.
        #[source]
        source: serde_arrow::Error,
    },
    /// Arrow refused to put the arrays together.
    #[error("cannot assemble a record batch")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// Text that is no digest or id.
#[derive(Debug, Error)]
#[error("{text:?} is no {expected}")]
pub struct ParseIdError {
    /// The offending text.
    pub text: String,
    /// What was expected, with its length.
    pub expected: &'static str,
}

/// A vocabulary that contradicts itself, or an id outside the range that it should be in.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VocabularyError {
    /// An image whose codes and grid do not fit, or ids that are not one whole image.
    #[error("no image: {problem}")]
    Image {
        /// What is wrong.
        problem: String,
    },
    /// Shapes of images that contradict themselves.
    #[error("vocabulary shapes: {problem}")]
    Shapes {
        /// What is wrong.
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
    /// A range ends behind the last id.
    #[error("vocabulary range {range} ends at id {end}, but the vocabulary has {size} ids")]
    TooLarge {
        /// Name of the range.
        range: String,
        /// One past its last id.
        end: u32,
        /// Number of ids of the vocabulary.
        size: u32,
    },
    /// A token or code is outside its range.
    #[error("{range} token {value} is out of range 0..{len}")]
    OutOfRange {
        /// Name of the range.
        range: String,
        /// The offending value, counted from the start of the range.
        value: u32,
        /// Length of the range.
        len: u32,
    },
    /// An id that should be one of a range is outside of it.
    #[error("id {id} is no id of the {range} range")]
    Foreign {
        /// Name of the range.
        range: String,
        /// The offending id.
        id: u32,
    },
    /// The order of the codes is no permutation of the image range.
    #[error("image_order is no order of the image range: {problem}")]
    Order {
        /// What is wrong.
        problem: String,
    },
    /// A further modality has the name of something else.
    #[error("a further modality cannot be called {name:?}; give it a name other than text, image and sentinels")]
    Modality {
        /// The name.
        name: String,
    },
    /// A vocabulary cannot be read from the names in a tokenizer.
    #[error("token {name} cannot be placed: {problem}")]
    Name {
        /// Name of the token.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Two vocabularies that should be the same differ.
    #[error("vocabularies differ in {field}: {ours} here, {theirs} there")]
    Different {
        /// Name of the first field that differs.
        field: String,
        /// Value on this side.
        ours: String,
        /// Value on the other side.
        theirs: String,
    },
}

/// A token sequence that is no document. Positions count from the document's first token.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    /// The document does not open and close with the boundary token.
    #[error("document must open and close with the boundary token, found {found} at {position}")]
    Boundary {
        /// Index of the token.
        position: usize,
        /// Id found there.
        found: u32,
    },
    /// Segments leave a gap, overlap, or do not end where the tokens end.
    #[error("segments must cover the tokens without gap, broken at token {position}")]
    Coverage {
        /// First token that is not covered exactly once.
        position: usize,
    },
    /// A token's id does not belong to its segment's modality.
    #[error("token {id} at {position} is no {modality} token")]
    Modality {
        /// Index of the token.
        position: usize,
        /// Its id.
        id: u32,
        /// Modality that the segment claims.
        modality: &'static str,
    },
    /// An image that is not between brackets, or brackets that are no pairs.
    #[error("images must stand between their brackets, broken at token {position}: {problem}")]
    Brackets {
        /// Index of the token.
        position: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// An image whose size, rows and ends of rows do not fit each other.
    #[error("image is broken at token {position}: {problem}")]
    Image {
        /// Index of the token in the document as it was before masking.
        position: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A sentinel of the body has no tail, or the other way round.
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
        /// The line of numbers.
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
