//! Image tokenizers of the VQGAN family: from pixels to codes of a codebook and back, by configuration.
//!
//! ```text
//! pixels ─► encoder ─► quant_conv ─► nearest code ─► post_quant_conv ─► decoder ─► pixels
//! ```
//! [`VqTokenizer`] runs a network with given weights; [`fit()`] fits weights on pictures. Parameters have the names of taming-transformers;
//! other layouts (transformers, diffusers, LlamaGen) are renamed on reading. [`TorchScriptTokenizer`] runs a pair of TorchScript modules
//! instead, whatever network they contain.

mod blocks;
mod config;
mod cuda;
mod decoder;
mod encoder;
mod fit;
mod layout;
mod network;
mod quantizer;
mod tokenizer;
mod torchscript;
mod upload;

pub use config::{Precision, VqConfig};
pub use fit::{FitJob, FitProgress, VqFitConfig, fit};
pub use tokenizer::VqTokenizer;
pub use torchscript::{TorchScriptConfig, TorchScriptTokenizer};
