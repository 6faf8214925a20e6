//! Starts a session that another process has frozen.

use std::sync::Arc;

use super::admitted::check_registered;
use super::gateway::Gateway;
use crate::relay::adopted::AdoptedSession;
use crate::relay::registry::{Command, SessionContext};
use crate::relay::session_task::RelayTask;
use crate::relay::{Relay, RelayGuards};
use crate::runtime::guard::LoadGuard;

/// Returns the task of the session on the worker of this thread. `None` if its sockets cannot be registered: the session
/// ends.
pub fn start(
    gateway: &Gateway,
    sessions: &SessionContext,
    adopted: AdoptedSession,
    connection: LoadGuard,
) -> Option<RelayTask> {
    let AdoptedSession { parts, terms, facts, route, generation, rejected } = adopted;
    let target = [&facts.route, &facts.upstream, &facts.server].map(Arc::clone);
    let metrics = sessions.metrics().resume_session(target, &parts.image.session.counts);
    let session = sessions.register(Arc::clone(&facts), route);
    if let Some(cause) = rejected {
        // The session was registered just now, so it has no other commands.
        let _ = sessions.registry().deliver_to(session.key(), Command::Revoke(cause));
    }
    check_registered(gateway, sessions, session.key(), generation, &terms.lease, &facts);
    let guards = RelayGuards { session, connection, metrics };
    let relay = Relay::resume(parts, terms, Arc::clone(&facts), Arc::clone(&gateway.process), guards);
    if relay.is_none() {
        tracing::error!(request_id = %facts.request_id, "cannot continue a session of the earlier process, which ends");
    }
    relay.map(RelayTask::from)
}
