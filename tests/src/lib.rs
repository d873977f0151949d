//! What the end-to-end tests, the comparisons and the benchmarks of cm3flow share.
//!
//! The tests themselves stand in `tests/tests/`, the sample corpus in `tests/corpus/`.

pub mod fault;
pub mod functions;
pub mod given;
pub mod hostile;
pub mod job;
mod length;
pub mod pictures;
pub mod rooms;
pub mod s3;
pub mod servers;
pub mod small;
pub mod tools;

pub use length::long;
