//! What is done with versions once they are published: compared, verified and repaired, rebuilt, exported, freed of samples, and cleaned up after.

pub mod diff;
pub mod export;
pub mod gc;
pub mod rebuild;
pub mod verify;
pub mod withdraw;
