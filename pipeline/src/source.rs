//! Sources of a configuration: their files, and the pictures in them.

pub(crate) mod photos;
pub mod scan;
