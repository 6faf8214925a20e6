//! Checks `max_sessions` against the limit on file descriptors.

use std::num::NonZeroU32;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::ServeError;
use super::worker;
use crate::config::{AuthConfig, Config, ListenAddress, MaxSessions};
use crate::front::gateway::REFRESHES_MAX;
use crate::policy::live_keys::KeySource;
use crate::policy::token::VerifierConfig;
use crate::runtime::pending_limit::PendingLimit;
use crate::upstream::connector::extra_descriptors;

/// Descriptors other than those of connections, listeners and workers: logs, key files, and a reserve.
const OTHER_DESCRIPTORS: usize = 64;
/// The number of concurrent connections of the admin API, and of the metrics listener.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Descriptors of the admin API or of the metrics listener: its connections, its socket, and its event loop.
const ADMIN_DESCRIPTORS: usize = ADMIN_CONNECTIONS_MAX + 8;
/// Descriptors of a listener: its socket, a clone registered with the event loop, another clone while it moves, and a
/// connection that waits for a permit.
const LISTENER_DESCRIPTORS: usize = 4;

/// Descriptors of a key set that is fetched: a connection to its server, one to that of the issuer's configuration, and two
/// of a name look-up.
const KEY_SET_DESCRIPTORS: usize = 4;

/// Checks `max_sessions` against the highest descriptor limit of this process, as
/// [`Server::bind`](super::serve::Server::bind) does, but does not raise the limit. Returns the number of sessions that
/// fit.
///
/// # Errors
/// If the number in the configuration does not fit, or no session fits.
pub fn check_descriptors(config: &Config) -> Result<NonZeroU32, ServeError> {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    fit(config.server.max_sessions, other_descriptors(config), limit)
}

/// Returns the number of descriptors needed besides two per session.
pub(super) fn other_descriptors(config: &Config) -> u64 {
    // An inherited socket stays open besides its listener.
    let inherited = config.listeners.iter().filter(|listener| matches!(listener.address, ListenAddress::Inherited(_)));
    // Each pending request counts as a session, so `max_sessions` bounds their number.
    let extra: usize = config.upstreams.iter().map(extra_descriptors).fold(0, usize::saturating_add);
    let refreshes = config.routes.iter().any(|route| route.refresh_path.is_some());
    let count = OTHER_DESCRIPTORS
        + if refreshes { REFRESHES_MAX } else { 0 }
        + PendingLimit::descriptors(config.server.max_handshakes, config.server.handshakes_per_address)
        + LISTENER_DESCRIPTORS * config.listeners.len()
        + ADMIN_DESCRIPTORS * (usize::from(config.admin.is_some()) + usize::from(config.metrics.is_some()))
        + inherited.count()
        + KEY_SET_DESCRIPTORS * key_sets(config)
        + worker::DESCRIPTORS * config.server.workers.get()
        + extra.min(config.server.max_sessions.count as usize);
    count as u64
}

/// Returns the number of sections whose keys are fetched.
fn key_sets(config: &Config) -> usize {
    let is_fetched = |section: &&AuthConfig| {
        matches!(section, AuthConfig::Token(VerifierConfig { keys: KeySource::Remote { .. }, .. }))
    };
    config.auths.values().filter(is_fetched).count()
}

/// Raises the descriptor limit to its maximum and checks the number of sessions against it: each session needs two,
/// besides `others`.
pub(super) fn fit_descriptors(max_sessions: MaxSessions, others: u64) -> Result<NonZeroU32, ServeError> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        // A sandbox may forbid it; then the current limit applies.
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, "cannot raise the descriptor limit"),
        }
    }
    fit(max_sessions, others, limit.current.unwrap_or(u64::MAX))
}

fn fit(max_sessions: MaxSessions, others: u64, limit: u64) -> Result<NonZeroU32, ServeError> {
    let MaxSessions { count: sessions, explicit } = max_sessions;
    let needed = 2 * u64::from(sessions) + others;
    let too_few = ServeError::Descriptors { sessions, needed, limit };
    if needed <= limit {
        return NonZeroU32::new(sessions).ok_or(too_few);
    }
    let fitting = u32::try_from(limit.saturating_sub(others) / 2).unwrap_or(u32::MAX);
    match NonZeroU32::new(fitting) {
        Some(fitting) if !explicit => {
            tracing::warn!(max_sessions = fitting, needed, limit, "max_sessions lowered to the descriptor limit");
            Ok(fitting)
        }
        _ => Err(too_few),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_limited_by_the_descriptors() {
        let fit = |count, explicit, limit| fit(MaxSessions { count, explicit }, 328, limit).ok().map(NonZeroU32::get);
        assert_eq!(fit(1000, true, 2328), Some(1000));
        assert_eq!(fit(1000, true, 2327), None);
        assert_eq!(fit(1000, false, 2327), Some(999));
        assert_eq!(fit(1000, false, 300), None);
    }
}
