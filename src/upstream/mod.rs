//! Upstreams: the selection of a server for a session, the connection to it, and the checks of servers.

pub mod connector;
pub mod open;
mod race;
mod names;
pub mod stream;
mod tls;
mod pong;
pub mod checks;
mod cookies;
mod rates;
mod waiting;

pub use connector::{AskError, Asked, Connector};
pub use race::ATTEMPTS_AT_ONCE;
pub use stream::UpstreamStream;
