//! Upstreams: the selection of a server for a session, and the connection to it.

pub mod connect;
pub mod open;
mod race;
mod server;
pub mod stream;

pub use connect::{AskError, Pool};
pub use stream::UpstreamStream;
