//! Warns of certificates that expire.

use std::time::{Duration, SystemTime};

use crate::config::EXPIRES_SOON;
use crate::runtime::clock;

/// The longest time between two readings of the clock, which may be set in between.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);
/// The time between two warnings of certificates that expire soon.
const WARNING_INTERVAL: Duration = Duration::from_hours(24);

/// The end of the validity of a certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Its DNS names, or the section of a client certificate.
    pub names: Vec<String>,
    /// The last moment at which it is valid, since the Unix epoch.
    pub not_after: Duration,
    /// The peers that reject it afterwards.
    pub peers: &'static str,
    /// Whether Tollgate renews it, which logs its own failures.
    pub is_renewed: bool,
}

impl Expiry {
    /// Creates it from the time at which the certificate ends.
    pub fn new(names: Vec<String>, not_after: SystemTime, peers: &'static str) -> Self {
        Self {
            names,
            not_after: not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            peers,
            is_renewed: false,
        }
    }
}

/// Logs an error when a certificate in use expires, and a daily warning of each that expires within 14 days and that Tollgate does not renew itself. Never
/// returns. The state at the start and at each reload is reported when the configuration is read.
pub async fn watch_expiry(in_use: impl Fn() -> Vec<Expiry>) {
    let mut checked = clock::both().unix;
    let mut warned = checked;
    loop {
        let now = clock::both().unix;
        let next = in_use().iter().map(|expiry| expiry.not_after).filter(|not_after| *not_after >= now).min();
        // A certificate is still valid at `not_after`.
        let until = next.unwrap_or(Duration::MAX).saturating_add(Duration::from_millis(1)).saturating_sub(now);
        tokio::time::sleep(until.min(CHECK_INTERVAL)).await;
        let now = clock::both().unix;
        let warns = now.saturating_sub(warned) >= WARNING_INTERVAL;
        for Expiry { names, not_after, peers, is_renewed } in in_use() {
            let names = names.join(", ");
            if (checked..now).contains(&not_after) {
                tracing::error!(names, "a certificate has expired, and {peers} refuse it");
            } else if warns && !is_renewed && now <= not_after && not_after.saturating_sub(now) < EXPIRES_SOON {
                let days = not_after.saturating_sub(now).as_secs() / 86_400;
                tracing::warn!(names, days, "a certificate expires soon: renew it");
            }
        }
        checked = now;
        if warns {
            warned = now;
        }
    }
}
