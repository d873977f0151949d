//! Views for people: single samples, documents and packs, and the report of a run.

pub mod inspect;
pub mod report;
