//! Moves the listeners and the live sessions to a new process.

pub mod spawn;
pub mod upgrader;
