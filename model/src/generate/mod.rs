//! Sampling from a decoder: prompts in, ids of images or text out.
//!
//! ```text
//! prompts, unconditional prompts ─► prefill ─► logits ─► guidance ─► allowed ids only ─► temperature, top-p ─► draw ─► advance ─┐
//!                                                 ▲────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Keys and values of what was already read are kept. A prompt's draws are keyed by the seed and the prompt's index in the call, so
//! equal prompts of one call are continued differently.

mod cache;
mod continuation;
mod sampler;

pub(crate) use continuation::generate;

#[cfg(test)]
mod tests;
