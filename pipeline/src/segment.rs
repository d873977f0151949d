//! What a unit is and how it is made: its key, its task, and the stages of its segment.

mod bank;
mod compose;
mod kept;
mod keys;
mod pack;
mod prepare;
mod settle;
mod task;
mod worker;

pub(crate) use keys::KeyMaker;
pub(crate) use task::{UnitTask, WindowTask};
pub(crate) use worker::Worker;
