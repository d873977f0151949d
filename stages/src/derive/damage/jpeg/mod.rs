//! Check of the coded data of a JPEG, without decoding pixels.
//!
//! `walk.rs` goes from segment to segment, `scan.rs` from block to block; `bits.rs` and `huffman.rs` read codes. A picture is whole if
//! every code of its scans is valid, every block has its codes, and no bytes are left over between two markers.

mod bits;
mod frame;
mod huffman;
mod scan;
mod standard;
mod walk;

pub(in crate::derive) use walk::{Ending, closed, coefficient_bytes, look};

#[cfg(test)]
mod tests;
