//! `ingest`: raw samples from WebDataset tars, row lists and folders, keys kept.
//!
//! First stage of `prepare`. [`scan`] reads a source once and cuts it into units, of which it keeps where they stand; [`Ingest`] reads a
//! unit's rows again and sends them.
//! Codes may be given instead of a picture; they travel as its bytes.
//! A sample that cannot be used is sent with a refusal: nothing that the source holds is left out in silence.

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

/// Revision of this stage's code: raised when the same input gives other rows.
pub const REVISION: u32 = 6;
/// The stage's name.
pub const NAME: &str = "ingest";

#[cfg(test)]
pub(crate) mod tests;
