//! Upstreams: which server a session goes to, and how it is reached.

pub mod connect;
pub mod open;
mod race;
mod server;
pub mod stream;

pub use connect::{AskError, Pool};
pub use stream::UpstreamStream;
