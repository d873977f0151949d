//! Stages of cm3flow, one module each, named as in the drawing of `pipeline/README.md`.
//!
//! A [`Stage`] turns one stream of record batches into another; a [`Transform`] works row by row, and [`Map`] makes it a stage. Models
//! enter through the traits of `cm3flow-schemas`; no code here knows libtorch.
//!
//! The feature `read` alone has the shard reader; `prepare` adds everything that makes shards.

pub mod error;
pub mod eval;
pub mod read;
pub mod store_options;

#[cfg(feature = "prepare")]
pub mod annotate;
#[cfg(feature = "prepare")]
mod budget;
#[cfg(feature = "prepare")]
pub mod channel;
#[cfg(feature = "prepare")]
mod codes;
#[cfg(all(test, feature = "prepare"))]
mod conformance;
#[cfg(feature = "prepare")]
pub mod dedup;
#[cfg(feature = "prepare")]
pub mod derive;
#[cfg(feature = "prepare")]
pub mod embed;
#[cfg(feature = "prepare")]
pub mod filter;
#[cfg(all(test, feature = "prepare"))]
mod fixtures;
#[cfg(feature = "prepare")]
pub mod index;
#[cfg(feature = "prepare")]
pub mod ingest;
#[cfg(feature = "prepare")]
pub mod instruct;
#[cfg(feature = "prepare")]
pub mod mask;
#[cfg(feature = "prepare")]
pub mod meter;
#[cfg(feature = "prepare")]
pub mod owner;
#[cfg(feature = "prepare")]
pub mod pack;
#[cfg(feature = "prepare")]
pub mod retrieve;
#[cfg(all(test, feature = "prepare"))]
mod revisions;
#[cfg(feature = "prepare")]
pub mod shard;
#[cfg(feature = "prepare")]
pub mod shuffle;
#[cfg(feature = "prepare")]
pub mod split;
#[cfg(feature = "prepare")]
pub mod stage;
#[cfg(feature = "prepare")]
mod steps;
#[cfg(feature = "prepare")]
pub mod tokenize;

#[cfg(feature = "prepare")]
pub use budget::{ByteBudget, PictureRoom};
#[cfg(feature = "prepare")]
pub use channel::{BatchSender, BatchStream, ChannelLimits};
pub use error::{Result, StageError};
#[cfg(feature = "prepare")]
pub use meter::{StageCounts, StageMeter};
#[cfg(feature = "prepare")]
pub use stage::{Chain, Map, Revised, Source, Stage, Transform};
#[cfg(feature = "prepare")]
pub use steps::Steps;
