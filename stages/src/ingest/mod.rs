//! `ingest`: raw samples of WebDataset tars, row lists and folders, with their keys.
//!
//! First stage of `prepare`. [`scan()`] reads a source once and cuts it into units; it keeps only their places. [`Ingest`] reads a unit's
//! rows again and sends them. Given codes travel as the bytes of their picture. A sample that cannot be used is sent with a refusal:
//! nothing in the source is dropped silently.

mod annotations;
mod config;
mod cuts;
mod disk;
mod facts;
mod files;
mod folder;
mod format;
mod lines;
mod location;
mod memory;
mod names;
mod planned;
mod rows;
mod sample;
mod scan;
mod unit;
mod webdataset;

pub use config::{GroupBy, ReadOptions, RowSettings, SourceConfig, SourceFormat};
pub use location::Location;
pub use memory::{NoMemory, ScanMemory, ScanOptions};
pub use planned::{PlannedUnit, UnitPlace};
pub use scan::{ScannedSource, scan};
pub use unit::Ingest;

/// Revision of this stage's code; raised when the same input gives other rows.
pub const REVISION: u32 = 6;
/// Name of the stage in metrics, refusals and errors.
pub const NAME: &str = "ingest";

#[cfg(test)]
pub(crate) mod tests;
