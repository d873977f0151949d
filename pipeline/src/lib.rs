//! Runtime of cm3flow: configuration, store, plan, execution, catalog, training and report, put together by [`run::run`].
//!
//! `README.md` beside this crate is the architecture page. This crate alone names stages and models together. Rooms stand on floors,
//! and each uses lower floors only; `tests/tests/workspace.rs` holds the table.

pub mod artefact;
pub mod catalog;
pub mod command;
pub mod config;
pub mod error;
pub mod events;
mod execute;
pub mod metrics;
pub mod plan;
pub mod run;
mod segment;
pub mod source;
pub mod store;
pub mod terminal;
pub mod train;
pub mod versions;
pub mod view;

pub use config::{Config, Job};
pub use error::{PipelineError, Result};
pub use execute::WorkerCommand;
pub use store::Store;
