//! Upstreams: the selection of a server for a session, and the connection to it.

pub mod connector;
pub mod open;
mod race;
mod names;
pub mod stream;
mod tls;

pub use connector::{AskError, Asked, Connector};
pub use stream::UpstreamStream;
