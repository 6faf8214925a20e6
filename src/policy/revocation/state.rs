//! The revocations of the API as plain data, for another process.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Revocations;
use super::entry::{Kind, Revocation, Target};
use super::written::REASON_MAX_CHARS;

/// The revocations of the API and of logouts. Those of `revocations_file` are part of it only for a process that drains:
/// every other one reads the file.
#[derive(Serialize, Deserialize)]
pub struct RevocationsState {
    refused: u64,
    entries: Vec<EntryState>,
}

/// A [`Revocation`] as plain data.
#[derive(Serialize, Deserialize)]
struct EntryState {
    kind: Kind,
    auth: Option<Box<str>>,
    value: Box<str>,
    issued_before: Option<Duration>,
    expires: Duration,
    created: Duration,
    reason: Option<Box<str>>,
}

impl Revocations {
    /// Returns the revocations of the API that have not ended, as plain data.
    pub fn export(&self, now: Duration) -> RevocationsState {
        let entries = self.of_api(now).iter().map(|revocation| EntryState::of(revocation)).collect();
        RevocationsState { refused: self.refused(), entries }
    }

    /// Returns all revocations that have not ended, also those of `revocations_file`, as plain data.
    pub fn export_all(&self, now: Duration) -> RevocationsState {
        let (all, _) = self.list(None, usize::MAX, now);
        let entries = all.iter().map(|(_, revocation)| EntryState::of(revocation)).collect();
        RevocationsState { refused: self.refused(), entries }
    }

    /// Adds the revocations that another process exported. One that the journal has, too, is merged with it, so that to
    /// do it twice has no further effect. Returns the number of those that are not valid or exceed the limits: these are
    /// left out.
    pub fn import(&self, state: RevocationsState, now: Duration) -> usize {
        let RevocationsState { refused, entries } = state;
        let mut left_out: usize = 0;
        for entry in entries {
            let added = match entry.import() {
                Some(revocation) if revocation.has_ended(now) => true,
                Some(revocation) => self.add(revocation, now).is_ok(),
                None => false,
            };
            left_out = left_out.saturating_add(usize::from(!added));
        }
        self.refused.fetch_max(refused, Ordering::Relaxed);
        left_out
    }
}

impl EntryState {
    fn of(revocation: &Revocation) -> Self {
        let Revocation { target, issued_before, expires, created, reason } = revocation;
        Self {
            kind: target.kind(),
            auth: target.auth().map(Box::from),
            value: target.value().into(),
            issued_before: *issued_before,
            expires: *expires,
            created: *created,
            reason: reason.clone(),
        }
    }

    fn import(self) -> Option<Revocation> {
        let Self { kind, auth, value, issued_before, expires, created, reason } = self;
        let is_auth = auth.as_deref().is_none_or(|auth| !auth.is_empty() && !auth.contains('\0'));
        let is_reason = reason.as_deref().is_none_or(|reason| reason.chars().nth(REASON_MAX_CHARS).is_none());
        let target = Target::new(kind, auth.as_deref(), &value).filter(|_| is_auth && is_reason)?;
        Some(Revocation { target, issued_before, expires, created, reason })
    }
}

/// Shows numbers only: the values are personal data.
impl fmt::Debug for RevocationsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationsState").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::VALUE_MAX_CHARS;
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    fn revocation(kind: Kind, auth: Option<&str>, value: &str, expires: Duration) -> Revocation {
        let target = Target::new(kind, auth, value).unwrap();
        let (issued_before, reason) = (Some(NOW), Some("left the company".into()));
        Revocation { target, issued_before, expires, created: NOW, reason }
    }

    fn exported(store: &Revocations) -> RevocationsState {
        postcard::from_bytes(&postcard::to_allocvec(&store.export(NOW)).unwrap()).unwrap()
    }

    fn of_api(store: &Revocations) -> Vec<Revocation> {
        let mut all: Vec<_> = store.of_api(NOW).iter().map(|revocation| Revocation::clone(revocation)).collect();
        all.sort_unstable_by_key(|revocation| revocation.target.id());
        all
    }

    #[test]
    fn revocations_of_the_api_hold_in_the_next_process() {
        let (old, new) = (Revocations::default(), Revocations::default());
        for (kind, auth) in [
            (Kind::Token, None),
            (Kind::Subject, Some("users")),
            (Kind::Session, Some("users")),
            (Kind::SubjectWithoutSession, Some("users")),
        ] {
            old.add(revocation(kind, auth, "ada", NOW + HOUR), NOW).unwrap();
        }
        old.replace_listed(&[revocation(Kind::Token, None, "listed", NOW + HOUR)], NOW).unwrap();
        // The new process has read one of them from the journal.
        new.add(revocation(Kind::Token, None, "ada", NOW + HOUR), NOW).unwrap();
        for _ in 0..2 {
            assert_eq!(new.import(exported(&old), NOW), 0);
            assert_eq!(of_api(&new), of_api(&old));
        }
        assert_eq!(new.count(NOW), 4, "the file is not part of it");
        assert_eq!((new.import(old.export_all(NOW), NOW), new.count(NOW)), (0, 5));
        let later = Revocations::default();
        assert_eq!((later.import(exported(&old), NOW + HOUR), later.count(NOW)), (0, 0), "all have ended");
    }

    #[test]
    fn revocations_that_are_not_valid_or_too_many_are_left_out() {
        let entry = |auth: Option<&str>, value: &str, reason: &str| EntryState {
            kind: Kind::Subject,
            auth: auth.map(Box::from),
            value: value.into(),
            issued_before: None,
            expires: NOW + HOUR,
            created: NOW,
            reason: Some(reason.into()),
        };
        let long = "a".repeat(VALUE_MAX_CHARS + 1);
        let entries = vec![
            entry(None, "ada", ""),
            entry(Some(""), "ada", ""),
            entry(Some("a\0b"), "ada", ""),
            entry(Some("users"), "", ""),
            entry(Some("users"), &long, ""),
            entry(Some("users"), "ada", &"a".repeat(REASON_MAX_CHARS + 1)),
            entry(Some("users"), "bob", "left"),
            entry(Some("users"), "eve", "left"),
        ];
        let store = Revocations::with_capacity(1);
        assert_eq!(store.import(RevocationsState { refused: 7, entries }, NOW), 7);
        assert_eq!((store.count(NOW), store.refused()), (1, 7));
    }

    #[test]
    fn debug_shows_no_values() {
        let store = Revocations::default();
        store.add(revocation(Kind::Subject, Some("users"), "ada", NOW + HOUR), NOW).unwrap();
        assert_eq!(format!("{:?}", exported(&store)), "RevocationsState { entries: 1, .. }");
    }
}
