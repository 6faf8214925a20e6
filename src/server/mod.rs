//! The server: binds listeners, starts workers, accepts connections, reloads, and drains.

pub mod error;
pub mod unix_socket;
pub mod socket;
mod watchdog;
pub mod pool;
pub mod worker;
pub mod accept;
pub mod descriptors;
mod discovery;
mod files;
mod forward_recheck;
mod found;
pub mod inherited;
mod key_loss;
mod listeners;
mod memory;
mod restart;
pub mod revocations;
pub mod reload;
mod refresh;
mod watch;
pub mod control;
pub mod serve;
