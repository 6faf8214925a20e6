//! Asks the services of forward authentication again about open sessions, and ends those that are no longer admitted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use tokio::time::sleep_until;

use crate::client::clients::HttpClients;
use crate::client::forward::{Decision, ask};
use crate::front::gateway::Gateway;
use crate::front::snapshot::Snapshot;
use crate::policy::forward::{ForwardAuth, Question, QuestionKey};
use crate::policy::recheck::admits_answer;
use crate::relay::registry::{Command, ListedSession};
use crate::runtime::clock;
use crate::session::{AdmissionRule, CloseReason};
use crate::telemetry::request::RequestId;

/// The maximum number of requests to one service at once.
pub(super) const AT_ONCE: usize = 16;
/// The maximum number of parts into which the sessions of one section are divided. Each part is checked at its own
/// time, so that the service is not asked about all sessions at once.
const PARTS_MAX: u32 = 16;
/// The minimum time between two parts.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest time until a changed configuration is noticed.
const NOTICE: Duration = Duration::from_secs(1);

/// The progress of the checks of one section.
#[derive(Debug)]
struct Progress {
    next: Instant,
    part: u32,
    /// Whether a check is under way. The next one does not start before its end.
    is_checking: bool,
    is_available: bool,
}

/// One part of the sessions of a section.
struct Part {
    name: Arc<str>,
    forward: Arc<ForwardAuth>,
    number: u32,
    parts: u32,
}

/// Sessions with the same question.
struct Group {
    question: Arc<Question>,
    sessions: Vec<ListedSession>,
}

/// Checks the sessions of each section at its interval. Never returns. The sections are checked at the same time, so
/// that a slow service delays only its own section.
pub(super) async fn run(gateway: &Gateway) {
    let clients = HttpClients::default();
    let mut all: HashMap<Arc<str>, Progress> = HashMap::new();
    let mut checks = FuturesUnordered::new();
    loop {
        let (due, wakes) = due(&gateway.snapshot(), &mut all, clock::now());
        checks.extend(due.into_iter().map(|due| check(gateway, &clients, due)));
        tokio::select! {
            () = sleep_until(wakes.into()) => {}
            Some((name, checked)) = checks.next() => {
                let Some(progress) = all.get_mut(&name) else { continue };
                progress.is_checking = false;
                progress.is_available = note(&name, progress.is_available, checked);
            }
        }
    }
}

/// Returns the parts that are checked now, and the time of the next call.
fn due(snapshot: &Snapshot, all: &mut HashMap<Arc<str>, Progress>, now: Instant) -> (Vec<Part>, Instant) {
    let mut wakes = clock::after(now, NOTICE);
    let sections: Vec<_> = snapshot.forward_auths().collect();
    all.retain(|name, progress| progress.is_checking || sections.iter().any(|(known, _)| *known == name));
    let mut due = Vec::new();
    for (name, forward) in sections {
        let Some(interval) = forward.config().recheck_interval else { continue };
        let (parts, pause) = divided(interval);
        let first = || Progress { next: clock::after(now, pause), part: 0, is_checking: false, is_available: true };
        let progress = all.entry(Arc::clone(name)).or_insert_with(first);
        if progress.is_checking {
            continue;
        }
        if progress.next <= now {
            progress.part = progress.part.wrapping_add(1).checked_rem(parts).unwrap_or_default();
            progress.next = clock::after(now, pause);
            progress.is_checking = true;
            due.push(Part { name: Arc::clone(name), forward: Arc::clone(forward), number: progress.part, parts });
        }
        wakes = wakes.min(progress.next);
    }
    (due, wakes)
}

/// Returns the number of parts, and the time between two of them.
fn divided(interval: Duration) -> (u32, Duration) {
    let parts = u32::try_from(interval.as_millis() / PAUSE_MIN.as_millis()).unwrap_or(u32::MAX).clamp(1, PARTS_MAX);
    (parts, interval.checked_div(parts).unwrap_or(interval))
}

/// The result of a check: `None` if there was no session to ask about, and the reason if the service did not decide
/// about all of them.
type Checked = Option<Result<(), String>>;

/// Checks one part of the sessions of a section. A session stays open while there is no decision. Sessions that are not
/// admitted any more end at `recheck_rate`.
async fn check(gateway: &Gateway, clients: &HttpClients, part: Part) -> (Arc<str>, Checked) {
    let Part { name, forward, number, parts } = part;
    let mut groups: HashMap<QuestionKey, Group> = HashMap::new();
    for session in gateway.workers.list().await {
        let grant = &session.1.grant;
        let is_of_part = session.1.request_id.0 % u128::from(parts.max(1)) == u128::from(number);
        let question = grant.answered.as_ref().and_then(|answered| answered.question.as_ref());
        let Some(question) = question.filter(|_| is_of_part && grant.auth.as_ref() == Some(&name)) else { continue };
        let new = || Group { question: Arc::clone(question), sessions: Vec::new() };
        groups.entry(question.key()).or_insert_with(new).sessions.push(session);
    }
    let forward = &*forward;
    let mut decided = stream::iter(groups.into_values())
        .map(|group| async move { decide(clients, forward, group).await })
        .buffer_unordered(AT_ONCE);
    let mut checked = None;
    let rate = gateway.snapshot().recheck_rate();
    let interval = rate.period.checked_div(rate.count.get()).unwrap_or_default();
    let mut next = clock::now();
    while let Some(ended) = decided.next().await {
        match ended {
            Ok(ended) => {
                checked.get_or_insert(Ok(()));
                for id in ended {
                    sleep_until(next.into()).await;
                    gateway
                        .workers
                        .command_soon(id, Command::Revoke(CloseReason::NotAdmitted(AdmissionRule::Service)))
                        .await;
                    next = clock::after(next, interval);
                }
            }
            Err(reason) => checked = Some(Err(reason)),
        }
    }
    (name, checked)
}

/// Asks about the sessions of one question. Returns those that are not admitted any more.
///
/// # Errors
/// The reason if there is no decision.
async fn decide(clients: &HttpClients, forward: &ForwardAuth, group: Group) -> Result<Vec<RequestId>, String> {
    let answer = match ask(clients, forward, &group.question).await {
        Decision::Admitted(answer, _) => Some(answer),
        Decision::Rejected(_) => None,
        Decision::Unavailable(reason) => return Err(reason),
    };
    let is_ended = |(route, facts): &ListedSession| {
        let session = facts.open_session(route);
        !answer.as_deref().is_some_and(|answer| admits_answer(&session, answer))
    };
    Ok(group.sessions.iter().filter(|session| is_ended(session)).map(|(_, facts)| facts.request_id).collect())
}

/// Logs whether the service decides, if that has changed. Returns whether it does.
fn note(auth: &str, was_available: bool, checked: Checked) -> bool {
    match checked {
        Some(Err(error)) => {
            if was_available {
                tracing::warn!(
                    auth,
                    error,
                    "the service does not decide about open sessions, which stay open meanwhile"
                );
            }
            false
        }
        Some(Ok(())) => {
            if !was_available {
                tracing::info!(auth, "the service decides about open sessions again");
            }
            true
        }
        None => was_available,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_divided_into_parts_of_at_least_a_second() {
        let seconds = Duration::from_secs;
        assert_eq!(divided(seconds(1)), (1, seconds(1)));
        assert_eq!(divided(seconds(10)), (10, seconds(1)));
        assert_eq!(divided(seconds(160)), (16, seconds(10)));
        assert_eq!(divided(Duration::from_millis(1_500)), (1, Duration::from_millis(1_500)));
    }
}
