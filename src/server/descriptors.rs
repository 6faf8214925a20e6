//! Checks `max_sessions` against the limit on file descriptors.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::checks::CHECKS_AT_ONCE;
use super::error::ServeError;
use super::forward_recheck::AT_ONCE;
use super::worker;
use crate::balance::UpstreamConfig;
use crate::client::clients::IDLE_MAX;
use crate::config::{AuthConfig, Config, ListenAddress, MaxSessions};
use crate::front::gateway::REFRESHES_MAX;
use crate::front::logouts::LOGOUTS_MAX;
use crate::front::waiting::waiting_max;
use crate::policy::live_keys::KeySource;
use crate::policy::token::VerifierConfig;
use crate::runtime::pending_limit::PendingLimit;
use crate::runtime::request_limit::RequestLimit;
use crate::upstream::ATTEMPTS_AT_ONCE;
use crate::upstream::connector::extra_descriptors;
use crate::upstream::http_pool;
use crate::upstream::resolver;

/// Descriptors other than those of connections, listeners and workers: logs, key files, and a reserve.
const OTHER_DESCRIPTORS: usize = 64;
/// The number of concurrent connections of the admin API, and of the metrics listener.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Descriptors of the admin API or of the metrics listener: its connections, its socket, and its event loop.
const ADMIN_DESCRIPTORS: usize = ADMIN_CONNECTIONS_MAX + 8;
/// Descriptors of a listener: its socket, a clone registered with the event loop, another clone while it moves, a
/// connection that waits for a permit, and two clones for a new process.
const LISTENER_DESCRIPTORS: usize = 6;

/// Descriptors of a key set that is fetched: a connection to its server, one to that of the issuer's configuration, and
/// two of a name look-up.
const KEY_SET_DESCRIPTORS: usize = 4;

/// Descriptors of an `[acme]` section: connections to its server, a file and its directory, and two of a name look-up.
const ACME_DESCRIPTORS: usize = IDLE_MAX + 4;

/// The number to which `max_sessions` is lowered; 0 if it is not. Each number is logged once, since every change of
/// discovered servers checks it.
static LOWERED: AtomicU32 = AtomicU32::new(0);

/// Checks `max_sessions` against the highest descriptor limit of this process, as
/// [`Server::bind`](super::serve::Server::bind) does, but does not raise the limit. Returns the number of sessions that
/// fit.
///
/// # Errors
/// If the number in the configuration does not fit, or no session fits.
pub fn check_descriptors(config: &Config) -> Result<NonZeroU32, ServeError> {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    fit(config.server.max_sessions, Others::of(config), limit)
}

/// The descriptors needed besides two per session.
#[derive(Debug, Clone, Copy)]
struct Others {
    /// Their number, without those of requests that wait.
    count: u64,
    /// Whether requests wait for keys or for a service: each needs two, of which the service or the look-up of its name
    /// needs one.
    may_wait: bool,
}

impl Others {
    fn of(config: &Config) -> Self {
        Self { count: other_descriptors(config), may_wait: key_sets(config) + services(config) > 0 }
    }

    /// Returns the number of requests that wait, if there are so many sessions.
    fn waiting(self, sessions: u32) -> u64 {
        if self.may_wait { u64::from(waiting_max(sessions).get()) } else { 0 }
    }

    /// Returns the largest number of sessions that fit.
    fn fitting(self, limit: u64) -> u32 {
        let needed = |sessions: u32| 2 * (u64::from(sessions) + self.waiting(sessions)) + self.count;
        let (mut fits, mut exceeds) = (0, u32::try_from(limit / 2).unwrap_or(u32::MAX).saturating_add(1));
        while exceeds - fits > 1 {
            let middle = fits.midpoint(exceeds);
            *if needed(middle) <= limit { &mut fits } else { &mut exceeds } = middle;
        }
        fits
    }
}

/// Returns the number of descriptors needed besides those of sessions and of requests that wait.
fn other_descriptors(config: &Config) -> u64 {
    // An inherited socket stays open besides its listener.
    let inherited = config.listeners.iter().filter(|listener| matches!(listener.address, ListenAddress::Inherited(_)));
    // Each pending request counts as a session, so `max_sessions` bounds their number.
    let extra: usize = config.upstreams.iter().map(extra_descriptors).fold(0, usize::saturating_add);
    let has_http = config.routes.iter().any(|route| route.http);
    let refreshes = config.routes.iter().any(|route| route.refresh_path.is_some());
    let count = OTHER_DESCRIPTORS
        + if has_http { RequestLimit::descriptors(config.server.max_http_requests) } else { 0 }
        // Unused connections of each worker to servers.
        + if has_http { http_pool::IDLE_MAX * config.server.workers.get() } else { 0 }
        + if refreshes { REFRESHES_MAX } else { 0 }
        + if config.logouts.is_empty() { 0 } else { LOGOUTS_MAX }
        + PendingLimit::descriptors(config.server.max_handshakes, config.server.handshakes_per_address)
        + LISTENER_DESCRIPTORS * config.listeners.len()
        + ADMIN_DESCRIPTORS * (usize::from(config.admin.is_some()) + usize::from(config.metrics.is_some()))
        + inherited.count()
        + KEY_SET_DESCRIPTORS * key_sets(config)
        + ACME_DESCRIPTORS * config.acmes.len()
        // Unused connections of each worker and of the task that asks again, and its requests.
        + (IDLE_MAX * (config.server.workers.get() + 1) + AT_ONCE) * services(config)
        + worker::DESCRIPTORS * config.server.workers.get()
        + if looks_up_names(config) { resolver::DESCRIPTORS } else { 0 }
        + extra.min(config.server.max_sessions.count as usize)
        + checks(config);
    count as u64
}

/// Returns the number of descriptors that checks of servers need at once. The number of servers that are looked up is not
/// known.
fn checks(config: &Config) -> usize {
    let servers = |upstream: &UpstreamConfig| match &upstream.discover {
        Some(discover) if discover.is_looked_up() => CHECKS_AT_ONCE,
        _ => upstream.servers.len(),
    };
    let checked = config.upstreams.iter().filter(|upstream| upstream.health.checks.is_some());
    ATTEMPTS_AT_ONCE * checked.map(servers).fold(0, usize::saturating_add).min(CHECKS_AT_ONCE)
}

/// Whether names of servers are looked up.
fn looks_up_names(config: &Config) -> bool {
    let has_name = |upstream: &UpstreamConfig| upstream.servers.iter().any(|server| server.address.has_name());
    config.upstreams.iter().any(|upstream| upstream.discover.is_some() || has_name(upstream))
}

/// Returns the number of sections whose keys are fetched.
fn key_sets(config: &Config) -> usize {
    let is_fetched = |section: &&AuthConfig| {
        matches!(section, AuthConfig::Token(VerifierConfig { keys: KeySource::Remote { .. }, .. }))
    };
    config.auths.values().filter(is_fetched).count()
}

/// Returns the number of sections whose service decides.
fn services(config: &Config) -> usize {
    config.auths.values().filter(|section| matches!(section, AuthConfig::Forward(_))).count()
}

/// Raises the descriptor limit to its maximum and checks the number of sessions against it: each session needs two.
pub(super) fn fit_descriptors(config: &Config) -> Result<NonZeroU32, ServeError> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        // A sandbox may forbid it; then the current limit applies.
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, "cannot raise the descriptor limit"),
        }
    }
    fit(config.server.max_sessions, Others::of(config), limit.current.unwrap_or(u64::MAX))
}

fn fit(max_sessions: MaxSessions, others: Others, limit: u64) -> Result<NonZeroU32, ServeError> {
    let MaxSessions { count: sessions, explicit } = max_sessions;
    let needed = 2 * (u64::from(sessions) + others.waiting(sessions)) + others.count;
    let too_few = ServeError::Descriptors { sessions, needed, limit };
    if needed <= limit {
        is_changed(&LOWERED, 0);
        return NonZeroU32::new(sessions).ok_or(too_few);
    }
    match NonZeroU32::new(others.fitting(limit)) {
        Some(fitting) if !explicit => {
            if is_changed(&LOWERED, fitting.get()) {
                tracing::warn!(
                    max_sessions = fitting,
                    needed,
                    limit,
                    "max_sessions lowered to the descriptor limit: raise LimitNOFILE= of the unit, or `ulimit -n`"
                );
            }
            Ok(fitting)
        }
        _ => Err(too_few),
    }
}

/// Remembers a number, and returns whether it differs from the one before.
fn is_changed(remembered: &AtomicU32, number: u32) -> bool {
    remembered.swap(number, Ordering::Relaxed) != number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lowered_number_is_logged_once() {
        let lowered = AtomicU32::new(0);
        let logged = [0, 999, 999, 998, 998, 0, 998].map(|number| is_changed(&lowered, number));
        assert_eq!(logged, [false, true, false, true, false, true, true]);
    }

    #[test]
    fn sessions_are_limited_by_the_descriptors() {
        let others = Others { count: 328, may_wait: false };
        let fit =
            |count, explicit, limit| fit(MaxSessions { count, explicit }, others, limit).ok().map(NonZeroU32::get);
        assert_eq!(fit(1000, true, 2328), Some(1000));
        assert_eq!(fit(1000, true, 2327), None);
        assert_eq!(fit(1000, false, 2327), Some(999));
        assert_eq!(fit(1000, false, 300), None);
    }

    /// The number of requests that wait is a quarter of that of sessions, from 64 to 1,024.
    #[test]
    fn requests_that_wait_are_included() {
        let others = Others { count: 328, may_wait: true };
        let fit =
            |count, explicit, limit| fit(MaxSessions { count, explicit }, others, limit).ok().map(NonZeroU32::get);
        assert_eq!(fit(1000, true, 2828), Some(1000));
        assert_eq!(fit(1000, true, 2827), None);
        for (limit, fitting) in [(456, None), (458, Some(1)), (2827, Some(999)), (65_536, Some(31_580))] {
            assert_eq!(fit(100_000, false, limit), fitting, "{limit}");
        }
        assert_eq!(fit(10_000, false, u64::MAX), Some(10_000));
    }
}
