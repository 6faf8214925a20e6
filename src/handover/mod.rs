//! Moves the listeners and the live sessions to a new process.

pub mod on_disk;
pub mod progress;
pub mod upgrader;
