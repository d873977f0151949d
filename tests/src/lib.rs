//! Shared code of cm3flow's end-to-end tests, comparisons and benchmarks.
//!
//! The tests are in `tests/tests/`, the sample corpus is in `tests/corpus/`.

pub mod fault;
pub mod functions;
pub mod given;
pub mod hostile;
mod length;
pub mod pictures;
pub mod rooms;
pub mod s3;
pub mod servers;
pub mod small;
pub mod tools;
pub mod trial;

pub use length::long;
