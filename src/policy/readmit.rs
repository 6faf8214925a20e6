//! Admits a session that another process has admitted, by the facts that it was admitted with.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::admission::{Clocks, Policy};
use super::client_slots;
use super::counters::SharedCounts;
use super::grant::{Grant, Lease};
use super::path::Path;
use super::recheck::{Removed, admits};
use super::rejection::Rejection;
use super::route::Route;
use super::session_slots::Holder;
use crate::balance::Pool;

/// A session of another process.
#[derive(Debug, Clone, Copy)]
pub struct ForeignSession<'a> {
    /// The name of its route.
    pub route: &'a str,
    /// The facts that it was admitted with.
    pub grant: &'a Grant,
    /// The path of its request; `None` if it is not known whole.
    pub path: Option<&'a str>,
    /// The name of its upstream.
    pub upstream: &'a str,
    /// The name of its server.
    pub server: &'a str,
    /// Its id, and when it was opened.
    pub holder: Holder,
    /// Whether the slots of its client were released.
    pub is_client_released: bool,
    /// Whether it is counted at its server.
    pub has_server: bool,
    /// Its counts of messages from the client, and of bytes from the client and from the upstream, as
    /// [`Count::export`](super::quota::Count::export) returns them.
    pub counts: (Option<i64>, Option<[i64; 2]>),
}

/// The permission to relay a session that another process has admitted.
///
/// Beside an [`Admission`](super::admission::Admission) it is the only one. It is sound because the facts come from a
/// process of the same user, over a socket that this user made, and only after that process has given up the session.
#[derive(Debug)]
pub struct Readmitted {
    /// Its route.
    pub route: Arc<Route>,
    /// Its slots. They are taken beyond the limits: the session is open already.
    pub lease: Lease,
    /// The counts that it shares with other sessions. They are at least its own.
    pub shared: SharedCounts,
    /// Why these rules do not admit it. It is to be closed then.
    pub rejected: Option<Rejection>,
    /// Whether its upstream has its server, if it has one. It is to be closed otherwise: the server is not in the pool,
    /// so no drain of the server would end it.
    pub is_served: bool,
}

impl Policy {
    /// Admits a session of another process, as a reload to these rules would.
    ///
    /// # Errors
    /// If it has no route or upstream here.
    pub fn readmit(&self, session: &ForeignSession<'_>, now: Clocks) -> Result<Readmitted, Removed> {
        let ForeignSession { grant, holder, .. } = *session;
        let route = self.routes().named(session.route).ok_or(Removed::Route)?;
        let pool = pool_of(route, session)?;
        let matched = match session.path {
            Some(path) => {
                let path = Path::parse(path).map_err(|_| Removed::Path)?;
                Some(route.config.path.matches(&path).ok_or(Removed::Path)?)
            }
            None => None,
        };
        let rejected = admits(route, grant, matched.as_ref().unwrap_or(&grant.params), now).err();
        let (counters, limits) = (self.counters(), &route.config.limits);
        let client = grant.limited_client(route.name());
        // The limit is checked where sessions are admitted. This one may exceed it until sessions of either process end.
        let slot = counters.take_session(NonZeroU32::MAX).ok_or(Removed::Route)?;
        let slots = if session.is_client_released {
            client_slots::ClientSlots::default()
        } else {
            client_slots::add(counters, limits, client, holder)
        };
        let mut lease = Lease::new(slot, slots);
        if session.is_client_released {
            lease.release_client();
        }
        let counted = if session.has_server { pool.adopt_session(session.server) } else { None };
        let is_served = counted.is_some() || !session.has_server;
        if let Some(counted) = counted {
            lease.hold_server(counted);
        }
        let shared = self.shared_counts(route, &client, now.instant);
        let (messages, bytes) = session.counts;
        if let (Some(count), Some(exported)) = (&shared.messages, messages) {
            count.raise(exported, now.instant);
        }
        if let (Some(counts), Some(exported)) = (&shared.bytes, bytes) {
            counts.iter().zip(exported).for_each(|(count, exported)| count.raise(exported, now.instant));
        }
        Ok(Readmitted { route: Arc::clone(route), lease, shared, rejected, is_served })
    }
}

fn pool_of<'a>(route: &'a Route, session: &ForeignSession<'_>) -> Result<&'a Arc<Pool>, Removed> {
    if !route.config.host.matches(&session.grant.host) {
        return Err(Removed::Host);
    }
    if *route.config.upstream == *session.upstream { Ok(&route.pool) } else { Err(Removed::Upstream) }
}
