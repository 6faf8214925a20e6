//! Pools of servers, without sockets or a clock: the choice of a server for a request, and the health of each.

pub mod config;
pub mod health;
pub mod pool;

pub use config::{ServerAddress, UpstreamConfig};
pub use pool::{Pool, Server};
