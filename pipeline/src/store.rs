//! The store: all bytes that a run keeps. Objects are created and never changed; put-if-absent decides who was first. Only gc,
//! repairs, leases and replaced scans delete objects.
//!
//! Put-if-absent cannot tell two writers of equal bytes apart: a record that must have one winner holds a value of its writer.

mod body;
pub mod config;
mod http;
mod layer;
mod objects;
mod open;
mod probe;
mod requests;
mod resilient;
mod retry;
pub(crate) mod scratch;
pub(crate) mod table;

pub use layer::StoreLayer;
pub use objects::{Created, Store};
pub use probe::{Finding, Probe};
pub use requests::{RequestCounts, Requests, requests};
pub use retry::{AttemptError, RetryPolicy, is_retryable};

pub(crate) use http::Limiter;
pub(crate) use objects::record_bytes;
pub(crate) use open::source_location;
