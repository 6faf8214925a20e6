//! Warns of certificates that expire.

use std::time::{Duration, SystemTime};

use crate::config::{Certificate, EXPIRES_SOON};
use crate::runtime::clock;

/// The longest time between two readings of the clock, which may be set in between.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);
/// The time between two warnings of certificates that expire soon.
const WARNING_INTERVAL: Duration = Duration::from_hours(24);

/// Logs an error when a certificate in use expires, and a daily warning of each that expires within 14 days. Never
/// returns. The state at the start and at each reload is reported when the configuration is read.
pub async fn watch_expiry(in_use: impl Fn() -> Vec<Certificate>) {
    let mut checked = clock::both().unix;
    let mut warned = checked;
    loop {
        let now = clock::both().unix;
        let next = in_use().iter().map(not_after).filter(|not_after| *not_after >= now).min();
        // A certificate is still valid at `not_after`.
        let until = next.unwrap_or(Duration::MAX).saturating_add(Duration::from_millis(1)).saturating_sub(now);
        tokio::time::sleep(until.min(CHECK_INTERVAL)).await;
        let now = clock::both().unix;
        let warns = now.saturating_sub(warned) >= WARNING_INTERVAL;
        for certificate in in_use() {
            let (names, not_after) = (certificate.names.join(", "), not_after(&certificate));
            if (checked..now).contains(&not_after) {
                tracing::error!(names, "a certificate has expired, and clients refuse it");
            } else if warns && now <= not_after && not_after.saturating_sub(now) < EXPIRES_SOON {
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

fn not_after(certificate: &Certificate) -> Duration {
    certificate.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
