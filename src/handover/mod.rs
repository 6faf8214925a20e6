//! Moves the listeners and the live sessions to a new process.

mod readiness;
pub mod ended;
pub mod protocol;
pub mod records;
pub mod wire;
pub mod memfd;
pub mod channel;
pub mod monotonic;
pub mod sender;
pub mod receiver;
pub mod session;
pub mod state;
pub mod draining;
pub mod program;
pub mod progress;
pub mod replace;
pub mod predecessor;
pub mod old_process;
pub mod service;
pub mod on_disk;
pub mod upgrader;

#[cfg(test)]
mod tests;
