//! Contracts of cm3flow: what flows between stages, what is stored, and what stages ask of models and stores.
//!
//! Nothing here does I/O. Every other crate depends on this one, and this one on none of them.
//!
//! - Rows and columns: [`columns`] (Arrow schemas by state), [`rows`] (between batches and Rust structs), [`sample`].
//! - Identity: [`digest`], [`canonical`] (configuration as bytes), [`random`] (draws keyed by what they decide).
//! - Tokens: [`vocabulary`], [`document`], [`pack`]; shapes of images: [`grid`].
//! - Runtime records: [`mod@unit`], [`window`], [`version`], [`ledger`].
//! - Traits that models and stores implement: [`traits`]; how pictures become what a model takes: [`preparation`].
//! - `conformance`, behind the feature `testing`: the contract of the image tokenizers, as a suite that their tests run.

pub mod canonical;
pub mod columns;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod digest;
pub mod document;
pub mod error;
pub mod grid;
pub mod ledger;
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
pub use error::{DynError, GrammarError, ImageInputError, LedgerError, ParseIdError, SchemaError, VocabularyError};
pub use grid::{Grid, RoleGrid};
