//! `read`: packs in an order that is a pure function of versions, weights, seed and global position, and can be resumed anywhere.
//!
//! ```text
//! version or run ─► windows ─► order of blocks and packs ─┐
//! version or run ─► windows ─► order of blocks and packs ─┴► schedule of weights ─► global batches ─► slice of a rank and worker
//! ```
//!
//! Windows come in order. Within a window the blocks are permuted, and within a group of blocks the packs. Each epoch has new permutations.
//! Each block's digest is checked when it is first read. A reader that follows a run waits for windows to be committed, and has the same
//! order as the published version. Ranks and workers only slice global batches, so their numbers may change at any step, and a state
//! ([`MixState`]) is valid for all of them.

mod batches;
mod block;
mod follow;
mod location;
mod mix;
mod mixed;
mod order;
mod packs;
mod passes;
mod pool;
mod reader;
mod source;
mod stall;
mod state;
mod version;
mod window;

pub use batches::{BatchReader, End, RowBatch, Slice};
pub use block::{BlockReader, read_packs};
pub use follow::{FollowFeed, FollowTimes};
pub use location::{Location, VersionName};
pub use mix::{Phase, Schedule};
pub use mixed::{MixReader, SourceInput};
pub use order::Permutation;
pub use packs::{PackBlock, PackRow, SegmentTable, TokenIds};
pub use pool::{Origin, PoolLimits};
pub use reader::{PackOrder, PackReader};
pub use source::WindowFeed;
pub use stall::Stalls;
pub use state::MixState;
pub use version::{PublishedFeed, PublishedVersion};
pub use window::WindowShards;

/// Name of the stage in errors.
pub const NAME: &str = "read";

#[cfg(all(test, feature = "prepare"))]
mod tests;
#[cfg(all(test, feature = "prepare"))]
mod torture;
