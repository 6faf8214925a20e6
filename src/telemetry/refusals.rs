//! One line for each refusal, but no more lines than a disk can bear.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::policy::quota::{Bucket, Quota, Rate};
use crate::policy::rejection::Rejection;

/// At most 50 lines a second in the long run, 500 at once: some 15 KB a second under attack.
const LINES: Quota = Quota {
    rate: Rate { count: NonZeroU32::MIN.saturating_add(49), period: Duration::from_secs(1) },
    burst: NonZeroU32::MIN.saturating_add(499),
};
/// How much of what a client sent stands in a line.
const TEXT_MAX_BYTES: usize = 256;

/// The log of refusals.
#[derive(Debug)]
pub struct Refusals {
    lines: Bucket,
    left_out: AtomicU64,
}

/// A request that got no session.
#[derive(Debug)]
pub struct Refused<'a> {
    /// Why.
    pub rejection: Rejection,
    /// Where it came from.
    pub client: IpAddr,
    /// Its `Host`.
    pub host: Option<&'a str>,
    /// The path that it asked for, without query, which may hold a token.
    pub path: &'a str,
    /// Its route, if it came so far.
    pub route: Option<&'a str>,
    /// What else is known.
    pub detail: Option<&'a str>,
}

impl Refusals {
    /// Nothing logged yet.
    pub fn new(now: Instant) -> Self {
        Self { lines: Bucket::new(LINES, now), left_out: AtomicU64::new(0) }
    }

    /// Logs a refusal, or counts it for the next line if there were too many.
    pub fn log(&self, refused: &Refused<'_>, now: Instant) {
        if self.lines.take(now).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        tracing::info!(
            client = %refused.client,
            status = refused.rejection.refusal().status.as_u16(),
            cause = refused.rejection.label(),
            rule = refused.rejection.detail(),
            route = refused.route,
            host = refused.host.map(cut),
            path = cut(refused.path),
            detail = refused.detail.map(cut),
            left_out = (left_out > 0).then_some(left_out),
            "refused"
        );
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX_BYTES)]
}
