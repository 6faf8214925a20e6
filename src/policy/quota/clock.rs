//! The time scale of counts, nanoseconds since long before the process began, and the clock for governor.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::nanos::Nanos;

/// The epoch of the process in the scale of counts, in nanoseconds: 146 years. So an instant before the epoch can be
/// represented, too.
const EPOCH_NANOS: u64 = 1 << 62;
/// The longest time in which an exhausted quota is replenished, 73 years: times in nanoseconds cannot overflow.
pub(in crate::policy) const REPLENISH_MAX: Duration = Duration::from_nanos(REPLENISH_MAX_NANOS);
const REPLENISH_MAX_NANOS: u64 = 1 << 61;

/// The epoch of all counts: the first instant that was used.
static EPOCH: OnceLock<Instant> = OnceLock::new();

/// Converts an instant to the scale of counts.
pub(in crate::policy) fn nanos_at(now: Instant) -> u64 {
    let epoch = *EPOCH.get_or_init(|| now);
    match now.checked_duration_since(epoch) {
        // The epoch is one bit, above those of any span: this is the sum.
        Some(since) => EPOCH_NANOS | nanos(since),
        None => EPOCH_NANOS.saturating_sub(nanos(epoch.saturating_duration_since(now))),
    }
}

/// Converts a time in the scale of counts to an instant, at least `now`. Returns `now` if no `Instant` can represent
/// it.
pub(in crate::policy) fn instant_at(nanos: u64, now: Instant) -> Instant {
    now.checked_add(Duration::from_nanos(nanos.saturating_sub(nanos_at(now)))).unwrap_or(now)
}

/// Returns the nanoseconds of a span, at most [`REPLENISH_MAX`], so that sums of a few spans do not overflow.
pub(in crate::policy) fn nanos(span: Duration) -> u64 {
    // Each message needs this, and 64 bits take fewer instructions than the 128 of `as_nanos`.
    let whole = span.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(span.subsec_nanos().into()).min(REPLENISH_MAX_NANOS)
}

/// The clock for governor: it returns the time of the current call.
#[derive(Debug, Clone, Copy)]
pub(in crate::policy) struct CallClock;

thread_local! {
    /// Set right before each call of governor on the same thread.
    static CALL_TIME: Cell<u64> = const { Cell::new(0) };
}

impl CallClock {
    /// Sets the time of the next call.
    pub(in crate::policy) fn set(now: Instant) {
        CALL_TIME.set(nanos_at(now));
    }

    /// Sets the time of the next call, in the scale of counts.
    pub(in crate::policy) fn set_nanos(now: u64) {
        CALL_TIME.set(now);
    }

    /// Returns the time of the current call, in the scale of counts.
    pub(in crate::policy) fn nanos() -> u64 {
        CALL_TIME.get()
    }
}

impl Clock for CallClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        CALL_TIME.get().into()
    }
}
