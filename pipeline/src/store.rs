//! The store: every byte that a run keeps. Objects are created, never changed; put-if-absent decides who was first. Only what collects garbage or
//! repairs damage deletes.

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

pub use layer::Layer;
pub use objects::{Created, Store};
pub use probe::{Finding, Probe};
pub use requests::{RequestCounts, Requests, requests};
pub use retry::{AttemptError, RetryPolicy, is_retryable};

pub(crate) use http::Limiter;
pub(crate) use objects::record_bytes;
pub(crate) use open::source_location;
