//! What a configuration reads: the files of its sources, and the pictures in them.

pub(crate) mod photos;
pub mod scan;
