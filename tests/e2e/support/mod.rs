//! Shared parts of the end-to-end tests: the proxy as a child process, and both ends of a session.

pub mod every;
pub mod exchange;
pub mod name_server;
pub mod gate;
pub mod log;
pub mod pki;
pub mod process;
pub mod provider;
pub mod request;
pub mod secrets;
pub mod session;
pub mod setup;
pub mod tls_server;
pub mod upstream;
pub mod wire;

use std::time::Duration;

/// Timeout for every expected event. It is much longer than any of them takes, since the machine may be busy: only a
/// failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);
