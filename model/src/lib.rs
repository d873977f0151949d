//! Everything of cm3flow that touches libtorch. Implements `ImageTokenizer` and `LanguageModel` of `cm3flow-schemas`.
//!
//! - [`device`]: CPU or CUDA, found when the process starts; the numerics class of results.
//! - [`vq`]: image tokenizers of the VQGAN family, and fitting one on pictures.
//! - [`decoder`]: CM3Leon's decoder with its loss; [`generate`]: sampling from it; [`train`]: training it, with checkpoints.
//!
//! Bytes come in and go out as slices and vectors: no module here opens a file or a store ([`device`] loads libraries). All arithmetic is f32. On one numerics
//! class every result is a function of its arguments and seeds.

pub mod checkpoint;
pub mod decoder;
pub mod device;
pub mod error;
pub mod generate;
mod parameters;
pub mod train;
pub mod vq;
mod weights;

pub use error::ModelError;
