//! The optimizer and its learning rate: what the training of a decoder and the fit of an image tokenizer share.

mod adamw;
mod schedule;

pub(crate) use adamw::{AdamW, AdamWSettings};
pub(crate) use schedule::Schedule;
