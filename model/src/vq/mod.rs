//! Image tokenizers of the VQGAN family: pixels to codes of a codebook and back, by configuration.
//!
//! ```text
//! pixels ─► encoder ─► quant_conv ─► nearest code ─► post_quant_conv ─► decoder ─► pixels
//! ```
//! [`VqTokenizer`] runs a network whose weights are given; [`fit()`] makes weights from pictures. Parameters have the names of
//! taming-transformers; weights of other layouts (transformers, diffusers, LlamaGen) are renamed when they are read.
//! [`TorchScriptTokenizer`] runs a pair of TorchScript modules instead, whatever network is in them.

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
