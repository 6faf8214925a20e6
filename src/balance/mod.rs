//! Pools of servers, without sockets and clock: which server a request tries, and what is known of each.

pub mod config;
pub mod health;
pub mod pool;

pub use config::{ServerAddress, UpstreamConfig};
pub use pool::{Pool, Server};
