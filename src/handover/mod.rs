//! Moves the listeners and the live sessions to a new process.

pub mod program;
pub mod progress;
pub mod upgrader;
