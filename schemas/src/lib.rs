//! Contracts of cm3flow: rows between stages, stored records, and the traits of models and stores.
//!
//! Nothing here does I/O. Every other crate depends on this one; it depends on none of them.
//!
//! - Rows and columns: [`columns`] (Arrow schemas by state), [`rows`] (conversion between batches and Rust structs), [`sample`].
//! - Identity: [`digest`], [`canonical`] (configuration as bytes), [`random`] (draws keyed by their purpose).
//! - Tokens: [`vocabulary`], [`document`], [`pack`]; shapes of images: [`grid`].
//! - Numbers in configurations: [`limits`].
//! - Runtime records: [`mod@unit`], [`window`], [`version`], [`ledger`]; trained models: [`bundle`].
//! - Traits of models and stores: [`traits`]; from pictures to model input: [`preparation`].
//! - `conformance` (feature `testing`): the contract of image tokenizers as a suite, which their tests run.

pub mod bundle;
pub mod canonical;
pub mod columns;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod digest;
pub mod document;
pub mod error;
pub mod grid;
pub mod image_input;
pub mod layout;
pub mod ledger;
pub mod limits;
pub mod pack;
pub mod preparation;
pub mod random;
pub mod rows;
pub mod sample;
pub mod traits;
pub mod unit;
pub mod version;
pub mod vocabulary;
pub mod window;

pub use digest::{Digest, DocumentId, ImageId, SampleId};
pub use error::{DynError, GrammarError, LedgerError, ParseIdError, SchemaError, VocabularyError};
pub use grid::{Grid, RoleGrid};
pub use image_input::ImageInputError;
