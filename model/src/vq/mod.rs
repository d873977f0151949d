//! Image tokenizers of the VQGAN family: pixels to codes of a codebook and back, by configuration.
//!
//! ```text
//! pixels ─► encoder ─► quant_conv ─► nearest code ─► post_quant_conv ─► decoder ─► pixels
//! ```
//! [`VqTokenizer`] runs a network whose weights are given; [`fit()`] makes weights from pictures. Parameters have the names of
//! taming-transformers, so that its checkpoints and those of Chameleon fit as they are.

mod blocks;
mod config;
mod decoder;
mod encoder;
mod fit;
mod network;
mod quantizer;
mod tokenizer;

pub use config::VqConfig;
pub use fit::{FitJob, FitProgress, Precision, VqFitConfig, fit};
pub use tokenizer::VqTokenizer;
