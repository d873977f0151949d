//! CM3Leon's decoder-only transformer over the vocabulary, with its loss. [`crate::train`] trains it, and [`crate::generate`] runs it.
//!
//! ```text
//! ids ─► embedding + positions ─► (norm ─► attention ─► + ─► norm ─► ReLU network ─► +) x layers ─► norm ─► embedding^T ─► logits
//! ```
//! There are no biases, no dropout and no learned norms. [`crate::language::TokenModel`] combines the network with its
//! [`cm3flow_schemas::vocabulary::Vocabulary`].

mod attention;
mod config;
mod head;
mod layer;
mod loss;
mod network;
mod packs;

pub(crate) use attention::attention;
pub use config::{AttentionScope, DecoderConfig, DecoderPreset};
pub(crate) use layer::DEVIATION;
#[cfg(test)]
pub(crate) use loss::logits;
pub(crate) use loss::{loss_gradients, losses};
pub(crate) use network::Decoder;
pub(crate) use packs::{ParsedPacks, check_ids};

#[cfg(test)]
pub(crate) mod tests;
