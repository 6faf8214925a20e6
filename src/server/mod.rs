//! The server: binds listeners, starts workers, accepts connections, reloads, and drains.

pub mod error;
pub mod unix_socket;
pub mod socket;
mod watchdog;
pub mod pool;
pub mod worker;
pub mod accept;
mod checks;
pub mod descriptors;
mod files;
mod closings;
mod shuffle;
mod rebalancing;
pub mod draining;
mod forward_recheck;
pub mod inherited;
mod key_loss;
mod listeners;
mod memory;
mod restart;
pub mod revocations;
pub mod reload;
mod watch;
pub mod control;
pub mod serve;
