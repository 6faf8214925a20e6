//! Upstreams: which server a session goes to, and how it is reached.

pub mod connect;
pub mod open;
pub mod stream;

pub use connect::{ConnectError, Connected, Pool};
pub use stream::UpstreamStream;
