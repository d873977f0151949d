//! Execution of a plan, window by window: while one window is settled, composed and packed, the next is prepared.
//!
//! [`Executor`] decides on order, attempts and quarantine; [`UnitMaker`] make the units. Windows are committed in order. Results do not
//! depend on the number of workers: every unit is a function of its key.

mod attempt;
mod budget;
mod counted;
mod executor;
mod remake;
mod tasks;
mod workers;

pub(crate) use counted::{WindowUnits, counted};
pub(crate) use executor::Executor;
pub(crate) use remake::{Again, Sources};
pub(crate) use tasks::Tasks;
pub use workers::WorkerCommand;
pub(crate) use workers::{Answer, AnswerState, Hands, Processes};
