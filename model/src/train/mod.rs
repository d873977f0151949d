//! temporary
pub(crate) mod adamw;
pub(crate) mod schedule;
