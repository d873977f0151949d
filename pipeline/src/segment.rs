//! Segments: the key of each unit, its task, and the stages that make it.

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
