//! Decides which changes of a key set are logged: failures of its fetches, and whether each section can use it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::key_fetch::FetchError;

/// The time after which a failure that lasts is logged again.
const REPEAT: Duration = Duration::from_hours(1);

/// An `[auth]` section that uses a key set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUser {
    /// Its name.
    pub auth: Arc<str>,
    /// How long it uses the keys after the last successful fetch.
    pub stale_for: Duration,
}

/// The parts of the state of a key set that were logged.
#[derive(Debug, Default)]
pub(super) struct KeyLog {
    users: Vec<KeyUser>,
    /// The names of the sections for which the set is too old.
    unusable: Vec<Arc<str>>,
    /// The last failure that was logged, and when, if the last fetch failed.
    failure: Option<(FetchError, Instant)>,
}

/// The changes since the last call of [`KeyLog::pass`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UseChanges {
    /// The sections that cannot use the set any more.
    pub lost: Vec<Arc<str>>,
    /// The sections that can use the set again.
    pub regained: Vec<Arc<str>>,
    /// When the next section cannot use the set any more without a further fetch.
    pub next: Option<Instant>,
}

impl KeyLog {
    /// Replaces the sections that use the set.
    pub fn set_users(&mut self, users: Vec<KeyUser>) {
        self.unusable.retain(|name| users.iter().any(|user| user.auth == *name));
        self.users = users;
    }

    /// Returns the names of the sections.
    pub fn auths(&self) -> String {
        self.users.iter().map(|user| &*user.auth).collect::<Vec<_>>().join(", ")
    }

    /// Takes a failure. Returns whether it is logged: if the fetch before succeeded or failed for another reason, or
    /// this reason was logged an hour ago.
    pub fn fail(&mut self, error: &FetchError, now: Instant) -> bool {
        let is_known = self
            .failure
            .as_ref()
            .is_some_and(|(known, logged)| known == error && now.saturating_duration_since(*logged) < REPEAT);
        if !is_known {
            self.failure = Some((error.clone(), now));
        }
        !is_known
    }

    /// Takes a success.
    pub fn succeed(&mut self) {
        self.failure = None;
    }

    /// Takes the age of the keys; `None` if none were fetched yet, which every section waits for.
    pub fn pass(&mut self, age: Option<Duration>, now: Instant) -> UseChanges {
        let mut changes = UseChanges::default();
        let Some(age) = age else { return changes };
        for KeyUser { auth, stale_for } in &self.users {
            let was_usable = !self.unusable.contains(auth);
            match (was_usable, age < *stale_for) {
                (true, false) => changes.lost.push(Arc::clone(auth)),
                (false, true) => changes.regained.push(Arc::clone(auth)),
                _ => {}
            }
            let end = now.checked_add(stale_for.saturating_sub(age)).filter(|_| age < *stale_for);
            changes.next = [changes.next, end].into_iter().flatten().min();
        }
        self.unusable.retain(|name| !changes.regained.contains(name));
        self.unusable.extend(changes.lost.iter().map(Arc::clone));
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn users(list: &[(&str, u64)]) -> Vec<KeyUser> {
        list.iter()
            .map(|(auth, hours)| KeyUser { auth: (*auth).into(), stale_for: Duration::from_hours(*hours) })
            .collect()
    }

    fn names(list: &[&str]) -> Vec<Arc<str>> {
        list.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn a_failure_is_logged_when_its_reason_changes_and_hourly() {
        let (mut log, start) = (KeyLog::default(), Instant::now());
        let timeout = FetchError::Timeout;
        let url = crate::policy::remote::HttpUrl::parse("https://id.example.com/keys").unwrap();
        let other = FetchError::Request(url, crate::client::ClientError::Roots("none".to_owned()));
        let minutes = |minutes| start + Duration::from_mins(minutes);
        assert!(log.fail(&timeout, start) && !log.fail(&timeout, minutes(59)));
        assert!(log.fail(&timeout, minutes(60)) && !log.fail(&timeout, minutes(61)));
        assert!(log.fail(&other, minutes(62)) && !log.fail(&other, minutes(63)));
        log.succeed();
        assert!(log.fail(&other, minutes(64)));
    }

    #[test]
    fn each_section_stops_using_the_set_at_its_own_age() {
        let (mut log, now) = (KeyLog::default(), Instant::now());
        log.set_users(users(&[("a", 2), ("b", 5)]));
        assert_eq!(log.auths(), "a, b");
        assert_eq!(log.pass(None, now), UseChanges::default(), "the set was not fetched yet");
        let changes = |lost: &[&str], regained: &[&str], hours: Option<u32>| UseChanges {
            lost: names(lost),
            regained: names(regained),
            next: hours.map(|hours| now + HOUR * hours),
        };
        assert_eq!(log.pass(Some(HOUR), now), changes(&[], &[], Some(1)));
        assert_eq!(log.pass(Some(2 * HOUR), now), changes(&["a"], &[], Some(3)));
        assert_eq!(log.pass(Some(3 * HOUR), now), changes(&[], &[], Some(2)));
        assert_eq!(log.pass(Some(5 * HOUR), now), changes(&["b"], &[], None));
        log.set_users(users(&[("a", 2), ("c", 3)]));
        assert_eq!(log.pass(Some(5 * HOUR), now), changes(&["c"], &[], None));
        assert_eq!(log.pass(Some(Duration::ZERO), now), changes(&[], &["a", "c"], Some(2)));
    }
}
