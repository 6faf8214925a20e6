//! Checks the sessions of one worker against the rules of a new snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::registry::{Command, ListedSession, Registry};
use crate::policy::admission::Policy;
use crate::policy::recheck::{Recheck, Removed, has_lost_key};
use crate::policy::rejection::Rejection;
use crate::policy::route::OnRemoved;
use crate::runtime::{clock, cycle};
use crate::session::{AdmissionRule, CloseReason};
use crate::telemetry::request::RequestId;

/// The number of sessions that are checked in a row before the worker's sessions run.
const IN_A_ROW: usize = 64;

/// The cause of a session whose key has left its set.
const KEY_LOST: CloseReason = CloseReason::NotAdmitted(AdmissionRule::KeyLost);

/// Whether a check has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecheckMode {
    /// The sessions do not change.
    DryRun,
    /// Admitted sessions get their new terms, which may end them. The caller ends the others.
    Apply,
}

/// The result of a check of all sessions of one worker.
#[derive(Debug, Default, Clone)]
pub struct RecheckReport {
    /// The number of sessions that continue as they are.
    pub kept: usize,
    /// The number of sessions that continue with other terms.
    pub changed: usize,
    /// The sessions that are not admitted any more, each with the reason.
    pub rejected: Vec<(RequestId, Rejection)>,
    /// The sessions whose token has expired by their new terms, which end them at once.
    pub expired: Vec<RequestId>,
    /// The sessions that lost their route, each with what it lost.
    pub removed: Vec<(RequestId, Removed, OnRemoved)>,
    /// The sessions whose server is not in the pool of their upstream any more. They got their new terms.
    pub unserved: Vec<Unserved>,
}

/// A session whose server is not in the pool of its upstream any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unserved {
    /// Its id.
    pub id: RequestId,
    /// The name of its upstream.
    pub upstream: Arc<str>,
    /// The name of its server.
    pub server: Arc<str>,
}

/// The cause of these sessions in logs and reports.
const SERVER_REMOVED: &str = "server_removed";

impl RecheckReport {
    /// Returns the number of sessions that end, by cause.
    pub fn by_cause(&self) -> Vec<(&'static str, usize)> {
        let mut counts = BTreeMap::<&'static str, usize>::new();
        let rejected = self.rejected.iter().map(|(_, rejection)| rejection.label());
        let expired = self.expired.iter().map(|_| CloseReason::TokenExpired.label());
        let removed = self.removed.iter().map(|(_, removed, _)| removed.label());
        let unserved = self.unserved.iter().map(|_| SERVER_REMOVED);
        for cause in rejected.chain(expired).chain(removed).chain(unserved) {
            *counts.entry(cause).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    /// Returns why the only session that was checked is not admitted, if it is not.
    fn cause(&self) -> Option<CloseReason> {
        let rejected = self.rejected.first().map(|(_, rejection)| CloseReason::NotAdmitted((*rejection).into()));
        rejected.or_else(|| self.removed.first().map(|_| CloseReason::Removed))
    }

    /// Adds the result of another worker.
    pub fn merge(&mut self, other: Self) {
        self.kept = self.kept.saturating_add(other.kept);
        self.changed = self.changed.saturating_add(other.changed);
        self.rejected.extend(other.rejected);
        self.expired.extend(other.expired);
        self.removed.extend(other.removed);
        self.unserved.extend(other.unserved);
    }
}

/// Checks all sessions, and lets the worker's sessions run in between.
pub async fn recheck_all(registry: &Registry, policy: &Policy, mode: RecheckMode) -> RecheckReport {
    let mut report = RecheckReport::default();
    for keys in registry.keys().chunks(IN_A_ROW) {
        for key in keys {
            if let Some(session) = registry.get(*key) {
                recheck(registry, *key, &session, policy, mode, &mut report);
            }
        }
        cycle::next().await;
    }
    report
}

/// Checks one session, and ends it at once if it is not admitted, or its server has left the pool. This is for a session
/// that was admitted by an older snapshot, and registered after the sessions were checked against the newer one.
pub fn recheck_late(registry: &Registry, key: usize, policy: &Policy) {
    let Some(session) = registry.get(key) else { return };
    let mut report = RecheckReport::default();
    recheck(registry, key, &session, policy, RecheckMode::Apply, &mut report);
    let unserved = || report.unserved.first().map(|_| CloseReason::ServerDrain);
    let Some(cause) = report.cause().or_else(unserved) else { return };
    // The session was registered just now, so it has no other commands.
    let _ = registry.deliver_to(key, Command::Revoke(cause));
}

/// The condition on which a session is ended. It is checked right before: the session may have been renewed, or its key
/// may have come back, since it was found.
#[derive(Debug, Clone)]
pub enum EndCondition {
    /// The key that verified its token has left its set.
    KeyLost,
    /// These rules do not admit it.
    NotAdmitted(Arc<Policy>),
}

/// Ends the session with this id if the condition holds. Otherwise it gets the terms of the rules. Returns whether it
/// ends.
pub fn end_if(registry: &Registry, id: RequestId, condition: &EndCondition) -> bool {
    let Some(key) = registry.key_of(id) else { return false };
    let Some(session) = registry.get(key) else { return false };
    let cause = match condition {
        EndCondition::KeyLost => has_lost_key(&session.0, &session.1.grant).then_some(KEY_LOST),
        EndCondition::NotAdmitted(policy) => {
            let mut report = RecheckReport::default();
            recheck(registry, key, &session, policy, RecheckMode::Apply, &mut report);
            report.cause()
        }
    };
    cause.is_some_and(|cause| registry.end(key, cause))
}

/// Ends a session whose key left its set before the session was registered.
pub fn end_if_key_lost(registry: &Registry, key: usize) {
    let Some((route, facts)) = registry.get(key) else { return };
    if has_lost_key(&route, &facts.grant) {
        // The session was registered just now, so it has no more than one other command.
        let _ = registry.deliver_to(key, Command::Revoke(KEY_LOST));
    }
}

fn recheck(
    registry: &Registry,
    key: usize,
    (route, facts): &ListedSession,
    policy: &Policy,
    mode: RecheckMode,
    report: &mut RecheckReport,
) {
    match policy.recheck(&facts.open_session(route), clock::both()) {
        Recheck::Unchanged => report.kept = report.kept.saturating_add(1),
        Recheck::Admitted(terms) => {
            let count = if terms.changes.is_some() { &mut report.changed } else { &mut report.kept };
            *count = count.saturating_add(1);
            if mode == RecheckMode::Apply {
                registry.set_terms(key, terms);
            }
        }
        Recheck::Expired(terms) => {
            report.expired.push(facts.request_id);
            if mode == RecheckMode::Apply {
                registry.set_terms(key, terms);
            }
        }
        Recheck::Unserved(terms) => {
            let (upstream, server) = (Arc::clone(&facts.upstream), Arc::clone(&facts.server));
            report.unserved.push(Unserved { id: facts.request_id, upstream, server });
            if mode == RecheckMode::Apply {
                registry.set_terms(key, terms);
            }
        }
        Recheck::Rejected(rejection) => report.rejected.push((facts.request_id, rejection)),
        Recheck::Removed(removed, on_removed) => report.removed.push((facts.request_id, removed, on_removed)),
    }
}
