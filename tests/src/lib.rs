//! What the end-to-end tests, the comparisons and the benchmarks of cm3flow share.
//!
//! The tests themselves stand in `tests/tests/`, the sample corpus in `tests/corpus/`.

pub mod given;
pub mod hostile;
pub mod job;
pub mod tools;
