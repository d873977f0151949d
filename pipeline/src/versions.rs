//! Work on published versions: comparison, verification and repair, rebuild, export, withdrawal, and garbage collection.

pub mod diff;
pub mod export;
pub mod gc;
pub mod rebuild;
pub mod verify;
pub mod withdraw;
