//! Pools of servers, without sockets, a clock or randomness of their own: the choice of a server for a request, and the
//! state of each.

pub mod health;
pub mod config;
pub mod discovery;
pub mod hash;
pub mod server;
pub mod attempt;
pub mod choice;
pub mod rotation;
pub mod retry;
pub mod pool;
#[cfg(test)]
mod tests;

pub use attempt::Attempt;
pub use choice::{NoServer, Picked};
pub use config::{Balance, Discover, HashSource, ServerAddress, ServerConfig, UpstreamConfig};
pub use health::{Change, Failure, HealthConfig};
pub use pool::Pool;
pub use server::{Server, ServerSession};
