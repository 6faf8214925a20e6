//! Upstreams: the selection of a server for a session, and the connection to it.

pub mod connector;
pub mod open;
mod race;
mod names;
mod cookies;
mod rates;
mod waiting;

pub use crate::runtime::socket::SocketStream as UpstreamStream;
pub use connector::{AskError, Asked, Connector};
