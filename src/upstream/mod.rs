//! Upstreams: the look-up of their servers, the selection of one for a session, the connection to it, and their checks.

pub mod connector;
pub mod open;
mod race;
mod names;
pub mod server_connector;
pub mod stream;
mod tls;
mod pong;
pub mod checks;
mod cookies;
mod rates;
mod waiting;
mod watched_stream;
mod dns_runtime;
pub mod resolver;
pub mod discovery;
pub mod request_body;
pub mod http_connection;
pub mod http_pool;
pub mod response_body;
pub mod forward;

pub use connector::{AskError, Asked, Connector};
pub use race::ATTEMPTS_AT_ONCE;
pub use stream::UpstreamStream;
