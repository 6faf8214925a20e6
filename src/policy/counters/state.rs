//! The counts of quotas as plain data, for another process.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Counters, MessageKey, RouteCounts};
use crate::policy::address::AddressKey;

/// The maximum number of counts that are exported: 12 MB at most. Quotas beyond it start anew.
const ENTRIES_MAX: usize = 262_144;

/// The counts of quotas that are not fully replenished. Slots are not part of it: each session takes its own.
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersState {
    upgrades: Vec<(AddressKey, i64)>,
    routes: Vec<RouteState>,
}

/// The counts of one route.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct RouteState {
    name: Arc<str>,
    messages: Vec<(MessageKey, i64)>,
    bytes: [Vec<(MessageKey, i64)>; 2],
}

impl Counters {
    /// Returns the counts as plain data.
    pub fn export(&self, now: Instant) -> CountersState {
        let upgrades = self.upgrades.export(ENTRIES_MAX, now);
        let mut left = ENTRIES_MAX.saturating_sub(upgrades.len());
        // The lock of the routes is not held while the counts of one are read.
        let routes: Vec<(Arc<str>, Arc<RouteCounts>)> = {
            let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            routes.iter().map(|(name, counts)| (Arc::clone(name), Arc::clone(counts))).collect()
        };
        let routes = routes.into_iter().map(|(name, counts)| {
            let mut export = |counts: &super::Counts<MessageKey>| {
                let exported = counts.export(left, now);
                left = left.saturating_sub(exported.len());
                exported
            };
            RouteState { name, messages: export(&counts.messages), bytes: counts.bytes.each_ref().map(export) }
        });
        let routes = routes.filter(|route| !route.is_empty()).collect();
        CountersState { upgrades, routes }
    }

    /// Raises the counts to those that another process exported. It must follow the first snapshot, since routes that no
    /// snapshot counts are left out. To do it twice has no further effect.
    pub fn import(&self, state: CountersState, now: Instant) {
        self.upgrades.import(state.upgrades, now);
        for RouteState { name, messages, bytes } in state.routes {
            let counts = self.routes.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
            let Some(counts) = counts else { continue };
            counts.messages.import(messages, now);
            for (counts, exported) in counts.bytes.iter().zip(bytes) {
                counts.import(exported, now);
            }
        }
    }
}

impl RouteState {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.bytes.iter().all(Vec::is_empty)
    }
}

/// Shows numbers only: the keys are addresses and hashes of subjects.
impl fmt::Debug for CountersState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upgrades, routes } = self;
        f.debug_struct("CountersState")
            .field("upgrades", &upgrades.len())
            .field("routes", &routes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;
    use crate::policy::counts::KeyedLimiter;
    use crate::policy::quota::tests::quota;

    fn copy(state: &CountersState) -> CountersState {
        postcard::from_bytes(&postcard::to_allocvec(state).unwrap()).unwrap()
    }

    fn key(address: &str) -> AddressKey {
        AddressKey::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_used_quota_is_used_in_the_next_process() {
        let (old, new) = (Counters::default(), Counters::default());
        let now = Instant::now();
        let limiter = |counters: &Counters| KeyedLimiter::over(Arc::clone(counters.upgrades()), quota(1, 2));
        let (before, after) = (limiter(&old), limiter(&new));
        for address in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
            assert!(before.check(&key(address), now).is_ok());
        }
        let state = copy(&old.export(now));
        new.import(copy(&state), now);
        new.import(state, now);
        let allowed = |address: &str, now| after.check(&key(address), now).is_ok();
        assert!(!allowed("192.0.2.1", now) && !allowed("2001:db8::3", now));
        assert!(allowed("192.0.2.2", now) && !allowed("192.0.2.2", now), "one of two is left");
        assert!(allowed("192.0.2.1", now + Duration::from_secs(1)));
    }

    #[test]
    fn replenished_counts_and_routes_that_are_gone_are_left_out() {
        let (old, new) = (Counters::default(), Counters::default());
        let (now, chat, feed) = (Instant::now(), Arc::from("chat"), Arc::from("feed"));
        let later = now + Duration::from_secs(10);
        let message = MessageKey::of_identity("users", "ann");
        for route in [&chat, &feed] {
            old.route(route).messages.get(&message, now).raise(5_000_000_000, now);
            old.route(route).bytes[1].get(&message, now).raise(20_000_000_000, now);
        }
        assert_eq!(old.export(now + Duration::from_secs(30)), CountersState::default());
        let state = copy(&old.export(later));
        assert_eq!(state.routes.iter().map(|route| route.messages.len()).sum::<usize>(), 0);
        let counts = new.route(&chat);
        new.import(state, later);
        assert_eq!(counts.bytes[1].get(&message, later).export(later), 10_000_000_000);
        assert!(counts.bytes[0].export(ENTRIES_MAX, later).is_empty());
        assert_eq!(new.routes.lock().unwrap().len(), 1, "no snapshot counts the other route");
    }

    #[test]
    fn a_count_of_another_process_is_bounded_and_an_address_is_canonical() {
        let (counters, now) = (Counters::default(), Instant::now());
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let bytes = postcard::to_allocvec(&(vec![(mapped, i64::MAX)], 0_u8)).unwrap();
        let state: CountersState = postcard::from_bytes(&bytes).unwrap();
        counters.import(state, now);
        let limiter = KeyedLimiter::over(Arc::clone(counters.upgrades()), quota(NonZeroU32::MAX.get(), 1));
        let until = limiter.check(&key("192.0.2.1"), now).unwrap_err().until;
        assert!(until > now + Duration::from_hours(1));
    }

    #[test]
    fn debug_shows_no_keys() {
        let (counters, now) = (Counters::default(), Instant::now());
        counters.upgrades.get(&key("192.0.2.1"), now).raise(1_000, now);
        assert_eq!(format!("{:?}", counters.export(now)), "CountersState { upgrades: 1, routes: 0, .. }");
    }
}
