//! Sampling from a decoder: from prompts to ids of images or text.
//!
//! ```text
//! prompts, unconditional prompts ─► prefill ─► logits ─► guidance ─► allowed ids only ─► temperature, top-p ─► draw ─► advance ─┐
//!                                                 ▲────────────────────────────────────────────────────────────────────────────┘
//! ```
//! Keys and values of tokens read before are cached. A prompt's draws are keyed by the seed and the prompt's index in the call, so equal
//! prompts of one call get different continuations.

mod cache;
mod continuation;
mod sampler;

pub(crate) use continuation::generate;

#[cfg(test)]
mod tests;
