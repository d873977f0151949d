//! The runtime of cm3flow: configuration, store, plan, execution, catalog, training and report, put together by [`run::run`].
//!
//! `README.md` beside this crate is the architecture page. This is the only crate that names stages and models together.

pub mod artefact;
pub mod blocklist;
pub mod catalog;
pub mod config;
pub mod decode;
pub mod diff;
pub mod error;
mod estimate;
pub mod evaluate;
pub mod events;
mod execute;
pub mod export;
pub mod follow;
pub mod gc;
pub mod inspect;
pub mod lease;
pub mod metrics;
mod picture;
pub mod plan;
pub mod progress;
pub mod rebuild;
pub mod refused;
mod report;
pub mod run;
pub mod scan;
mod scratch;
pub mod store;
mod table;
pub mod train;
pub mod verify;
pub mod withdraw;

pub mod command;

pub use config::Config;
pub use error::{PipelineError, Result};
pub use execute::WorkerCommand;
pub use store::Store;
