//! CM3Leon's decoder-only transformer over the vocabulary, with its loss; what [`crate::train`] trains and [`crate::generate`] runs.
//!
//! ```text
//! ids ─► embedding + positions ─► (norm ─► attention ─► + ─► norm ─► ReLU network ─► +) x layers ─► norm ─► embedding, transposed ─► logits
//! ```
//! No biases, no dropout, no learned norms. [`crate::language`] puts the network and its [`cm3flow_schemas::vocabulary::Vocabulary`] together.

mod config;
mod head;
mod layer;
mod loss;
mod network;
mod packs;

pub use config::{AttentionScope, DecoderConfig, DecoderPreset};
pub(crate) use layer::attention;
pub(crate) use loss::{loss_gradients, losses};
pub(crate) use network::Decoder;
pub(crate) use packs::{ParsedPacks, check_ids};

#[cfg(test)]
pub(crate) mod tests;
