//! Upstreams: the look-up of their servers, the selection of one for a session, and the connection to it.

pub mod connector;
pub mod open;
mod race;
mod names;
mod dns_runtime;
pub mod resolver;
pub mod discovery;

pub use crate::runtime::socket::SocketStream as UpstreamStream;
pub use connector::{AskError, Asked, Connector};
