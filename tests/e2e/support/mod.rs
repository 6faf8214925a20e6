//! What the topics share: the gate as a child process, and the two ends of a session.

pub mod every;
pub mod gate;
pub mod log;
pub mod pki;
pub mod request;
pub mod session;
pub mod setup;
pub mod upstream;
pub mod wire;

use std::time::Duration;

/// How long anything may take that is sure to come. Far longer than it takes, since the machine may be busy: only a test
/// that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);
