//! Everything of cm3flow that touches libtorch. Implements `ImageTokenizer`, `ImageAnnotator` and `LanguageModel` of `cm3flow-schemas`.
//!
//! - [`device`]: CPU or CUDA, found when the process starts; the numerics class of results.
//! - [`vq`]: image tokenizers of the VQGAN family, and fitting one on pictures.
//! - [`annotate`]: depth, edges and the like of pictures, by TorchScript modules.
//! - [`decoder`]: CM3Leon's decoder with its loss; [`generate`]: sampling from it; [`language`]: both with a vocabulary; [`train`]: training it, with
//!   checkpoints.
//!
//! Bytes come in and go out as slices and vectors: no module here opens a file or a store ([`device`] loads libraries). All arithmetic is f32. On one numerics
//! class every result is a function of its arguments and seeds.

pub mod annotate;
pub mod checkpoint;
pub mod decoder;
pub mod device;
pub mod error;
pub mod generate;
mod hyperparameters;
pub mod language;
mod optimizer;
mod parameters;
mod torchscript;
pub mod train;
pub mod vq;
mod weights;

pub use error::ModelError;
pub use torchscript::check as check_torchscript;
pub use weights::check as check_weights;
