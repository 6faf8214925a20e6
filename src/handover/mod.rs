//! Moves the listeners and the live sessions to a new process.

mod readiness;
pub mod ended;
pub mod protocol;
pub mod records;
pub mod wire;
pub mod memfd;
pub mod channel;
pub mod pauses;
pub mod sender;
pub mod receiver;
pub mod program;
pub mod predecessor;
pub mod service;
pub mod upgrader;

#[cfg(test)]
mod tests;
