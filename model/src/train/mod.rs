//! Training of a decoder on packs, with checkpoints from which it continues bit by bit.
//!
//! ```text
//! PackSource ─► loss and gradient ─► clip, AdamW ─► observer ─► every N steps: checkpoint, evaluation
//! ```

mod observer;
mod trainer;

pub use observer::{TrainObserver, TrainSummary};
pub use trainer::Trainer;

pub use crate::hyperparameters::TrainConfig;

#[cfg(test)]
mod tests;
