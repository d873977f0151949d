//! `read`: packs in an order that is a pure function of (windows, seed, global position), and can be resumed anywhere.
//!
//! Windows come in order; within a window the blocks are permuted, and within a group of blocks the packs. An epoch that begins again
//! permutes anew. Each block's digest is checked when it is fetched. A reader that follows a run waits for windows to be committed and
//! offers the very order that the published version offers.

mod block;
mod order;
mod reader;

pub use block::{BlockReader, read_packs};
pub use order::Permutation;
pub use reader::{PackReader, WindowFeed, WindowShards};

/// The stage's name.
pub const NAME: &str = "read";

#[cfg(all(test, feature = "prepare"))]
mod tests;
