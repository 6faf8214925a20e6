//! Moves the listeners and the live sessions to a new process.

pub mod state;
pub mod upgrader;
