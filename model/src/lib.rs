//! All code of cm3flow that uses libtorch. Implements `ImageTokenizer`, `ImageAnnotator` and `LanguageModel` of `cm3flow-schemas`.
//!
//! - [`device`]: CPU or CUDA, found when the process starts; the numerics class of results.
//! - [`vq`]: image tokenizers of the VQGAN family, and their fit on pictures.
//! - [`annotate`]: depth, edges and the like of pictures, by TorchScript modules.
//! - [`decoder`]: CM3Leon's decoder with its loss; [`generate`]: sampling from it; [`train`]: its training, with checkpoints;
//!   [`hugging_face`]: checkpoints as transformers reads them.
//!
//! Bytes enter and leave as slices and vectors: no module here opens a file or a store ([`device`] loads libraries). On one numerics class
//! every result is a function of its arguments and seeds.
//!
//! The decoder, its training, the search for codes and the losses of a fit compute in f32. The network of a VQ tokenizer computes in f32 or
//! bf16 ([`vq::Precision`]), in a fit too. TorchScript modules compute in the type of their parameters. A few steps outside of the networks
//! use f64: levels of annotators, shares in sampling, gradient norms, and the principal components at the start of a fit.

pub mod annotate;
pub mod checkpoint;
pub mod decoder;
pub mod device;
pub mod error;
pub mod generate;
pub mod hugging_face;
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
pub use weights::{StoredType, check as check_weights};
