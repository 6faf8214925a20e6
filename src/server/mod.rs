//! The server: binds listeners, starts workers, accepts connections, reloads, and drains.

pub mod error;
pub mod unix_socket;
pub mod socket;
pub mod passed;
pub mod api_sockets;
pub mod permit;
mod watchdog;
pub mod pool;
pub mod worker;
pub mod accept;
mod acme;
mod checks;
pub mod descriptors;
mod discovery;
mod files;
mod closings;
mod shuffle;
mod rebalancing;
pub mod draining;
mod forward_recheck;
pub mod found;
pub mod gauges;
pub mod moved;
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
mod upgrading;
pub mod serve;
#[cfg(test)]
pub(crate) mod tests;
