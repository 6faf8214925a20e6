//! Admits and starts a session that another process has frozen.

use std::sync::Arc;

use super::admitted::check_registered;
use super::gateway::Gateway;
use crate::policy::readmit::{ForeignSession, Readmitted};
use crate::policy::session_slots::Holder;
use crate::relay::adopted::AdoptedSession;
use crate::relay::facts_state::FactsState;
use crate::relay::freezing::MovingParts;
use crate::relay::registry::{Command, SessionContext};
use crate::relay::session_task::RelayTask;
use crate::relay::terms::RelayTerms;
use crate::relay::{Relay, RelayGuards};
use crate::runtime::clock;
use crate::runtime::guard::LoadGuard;
use crate::session::CloseReason;

/// Takes the slots of a session. `parts` are its image and its sockets.
///
/// # Errors
/// If it has no route or upstream here, or its facts are not valid. The reason is for the log.
pub fn prepare(gateway: &Gateway, facts: FactsState, parts: MovingParts) -> Result<AdoptedSession, String> {
    let now = clock::both();
    let facts = facts.import(parts.exported_at).ok_or("the facts of the session are not valid")?;
    let (state, relay) = (&parts.image.session, &parts.image.relay);
    let session = ForeignSession {
        route: &facts.route,
        grant: &facts.grant,
        path: facts.summary.whole_path(),
        upstream: &facts.upstream,
        server: &facts.server,
        holder: Holder { id: facts.request_id.0, opened: facts.started },
        is_client_released: relay.is_client_released,
        has_server: relay.has_server,
        counts: (state.message_count, state.bytes.map(|bytes| bytes.map(|meter| meter.count))),
    };
    let snapshot = gateway.snapshot();
    let readmitted = snapshot.policy().readmit(&session, now).map_err(|removed| removed.label().to_owned())?;
    let Readmitted { route, lease, shared, rejected, is_served } = readmitted;
    let rejected = rejected.filter(|_| snapshot.rechecks_sessions());
    let rejected = rejected.map(|rejection| CloseReason::NotAdmitted(rejection.into()));
    Ok(AdoptedSession {
        parts,
        terms: RelayTerms { lease, limits: Arc::clone(&route.config.limits), shared },
        facts: Arc::new(facts),
        route,
        generation: snapshot.generation(),
        rejected: rejected.or((!is_served).then_some(CloseReason::ServerDrain)),
    })
}

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
