//! WebDataset tars: groups members into samples in one pass over the bytes.
//!
//! A scan walks the whole tar, and keeps the offsets of samples, repeated keys and the targets of hard links. To read a unit, only its
//! bytes are walked, which begin with a header. Both hold one sample at a time.
//!
//! # Source
//! <https://github.com/webdataset/webdataset#the-webdataset-format>

mod headers;
mod index;
mod samples;

#[cfg(test)]
mod tests;

pub(super) use index::{TarIndex, TarPart, index, samples};
pub(super) use samples::{Content, TarSample, counted_member};
