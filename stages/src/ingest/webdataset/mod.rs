//! WebDataset tars: which members belong to which sample, found in one pass over the bytes.
//!
//! A scan walks the whole tar and keeps where samples begin, which keys come back, and whose data hard links stand for; a unit is read by
//! walking its bytes alone, which begin with a header. Both hold one sample at a time.
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
