//! Executes here what the APIs of other nodes of the cluster were asked for. The operations are input from outside: each
//! is checked as a request is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;

use super::filter::Selection;
use super::listing::{Question, for_node};
use super::operations::{SPREAD_MAX, check_code, check_reason};
use super::problem::{Problem, Result};
use super::shared::{CloseOperation, SendOperation};
use crate::cluster::event::{Operation, OperationKind};
use crate::cluster::events::RemoteOperation;
use crate::cluster::handle::Cluster;
use crate::front::shared_refresh;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::server::control::Control;
use crate::telemetry::request::RequestId;
use crate::ws::frame::Message;

/// The interval between two lines about operations that are not executed.
const LOGGED: Duration = Duration::from_mins(1);

/// The maximum number of fresh tokens in progress, and that of those that wait for the end of one: a node that was away
/// reads many at once.
const RENEWALS_MAX: usize = 64;
const RENEWALS_WAITING_MAX: usize = 4_096;

/// The interval at which the end of the upgrade is looked for by which this process got its sessions.
const LOOK: Duration = Duration::from_millis(50);
/// Operations are executed again that were published in this time before such an upgrade.
const BEFORE_UPGRADE: Duration = Duration::from_secs(10);
/// The number of attempts to read them, and the pause between two.
const ATTEMPTS: u32 = 10;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// Executes operations until the process ends.
pub(super) async fn serve(control: &Control, cluster: &Cluster) {
    // The receiver exists before operations are repeated.
    let operations = cluster.events.operations();
    tokio::join!(execute(control, cluster, operations), repeat_operations(control, cluster));
}

/// Executes the closes and fresh tokens of the time of an upgrade again when no session is on its way to this process any
/// more.
async fn repeat_operations(control: &Control, cluster: &Cluster) {
    let facts = control.facts();
    let Some(before) = &facts.handed_over else { return };
    while !before.is_complete() {
        sleep(LOOK).await;
    }
    let ended = clock::now();
    for _ in 0..ATTEMPTS {
        let since = clock::now().saturating_duration_since(facts.started);
        if cluster.repeat_operations(since.saturating_add(BEFORE_UPGRADE)).await.is_ok() {
            let took = clock::now().saturating_duration_since(ended);
            return tracing::debug!(?took, "closes and fresh tokens of the upgrade are repeated");
        }
        sleep(ATTEMPT_PAUSE).await;
    }
    tracing::warn!(
        "closes and fresh tokens of other nodes during the upgrade may be missing: the cluster's server does not answer"
    );
}

/// Executes operations. Never returns before the process ends.
async fn execute(control: &Control, cluster: &Cluster, mut operations: Receiver<RemoteOperation>) {
    let renewals = Renewals::new();
    let mut logged: Option<Instant> = None;
    while let Some(RemoteOperation { published, from, operation }) = operations.recv().await {
        let Operation { kind, text, payload } = operation;
        let executed = match kind {
            OperationKind::Close => close(control, (published, &from), &text).await,
            OperationKind::Send => send(control, published, &text, payload).await,
            OperationKind::Question => answer(control, cluster, &text, &payload).await,
            OperationKind::Renew => renewals.begin(control, cluster, &text, &payload),
        };
        let (Err(problem), now) = (executed, clock::now()) else { continue };
        if logged.is_none_or(|at| now.saturating_duration_since(at) >= LOGGED) {
            logged = Some(now);
            tracing::warn!(from, ?kind, detail = problem.detail(), "an operation of another node is not executed");
        }
    }
}

async fn close(control: &Control, (published, from): (Instant, &str), text: &str) -> Result<()> {
    let CloseOperation { filter, code, reason, spread_millis } = parse(text)?;
    let (code, reason) = (check_code(Some(code))?, check_reason(Some(&reason))?);
    let spread = Duration::from_millis(spread_millis).min(SPREAD_MAX);
    let filter = filter.check_for_change(false)?;
    let ids = select(control, &filter, published).await;
    let selected = ids.len();
    if selected > 0 {
        control.close(ids, code, reason, spread).await.map_err(|_| Problem::bad_request("too many closes"))?;
        let (filter, code) = (filter.summary(), code.0);
        tracing::info!(
            from,
            filter,
            selected,
            code,
            ?reason,
            spread_ms = spread_millis,
            "closing sessions for another node"
        );
    }
    Ok(())
}

async fn send(control: &Control, published: Instant, text: &str, payload: Vec<u8>) -> Result<()> {
    let SendOperation { filter, is_text } = parse(text)?;
    let message = if is_text {
        let text = String::from_utf8(payload).map_err(|_| Problem::bad_request("the text is not UTF-8"))?;
        Message::Text(text.into())
    } else {
        Message::Binary(payload.into())
    };
    let ids = select(control, &filter.check_for_change(false)?, published).await;
    if !ids.is_empty() {
        tracing::debug!(selected = ids.len(), "sending to sessions for another node");
        control.send(ids, message).await;
    }
    Ok(())
}

async fn answer(control: &Control, cluster: &Cluster, text: &str, question: &[u8]) -> Result<()> {
    let page = for_node(control, &parse::<Question>(text)?).await?;
    let page = serde_json::to_string(&page).unwrap_or_default();
    if cluster.answer(question, &page).await.is_err() {
        tracing::debug!("a question of another node is not answered: the cluster's server does not take the answer");
    }
    Ok(())
}

/// The fresh tokens in progress. Keys may have to be fetched first, which later operations do not wait for.
struct Renewals {
    tasks: Tasks,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Renewals {
    fn new() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let (running, waiting) = (semaphore(RENEWALS_MAX), semaphore(RENEWALS_WAITING_MAX));
        Self { tasks: Tasks::default(), running, waiting }
    }

    /// Begins to renew sessions with a fresh token.
    fn begin(&self, control: &Control, cluster: &Cluster, text: &str, payload: &[u8]) -> Result<()> {
        let shared = cluster.open_renewal(text, payload);
        let shared =
            shared.ok_or_else(|| Problem::bad_request("its fresh token cannot be opened: its secret_file differs"))?;
        let waiting = Arc::clone(&self.waiting).try_acquire_owned();
        let waiting = waiting.map_err(|_| Problem::bad_request("too many fresh tokens of other nodes wait"))?;
        let (gateway, running) = (Arc::clone(control.gateway()), Arc::clone(&self.running));
        self.tasks.start(async move {
            // The semaphore is never closed.
            let Ok(_running) = running.acquire_owned().await else { return };
            drop(waiting);
            let renewed = shared_refresh::renew(&gateway, &shared).await;
            let (route, auth) = (&shared.route, &shared.auth);
            tracing::debug!(route, auth, renewed, "token refreshed by another node");
        });
        Ok(())
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| Problem::bad_request("it has another form"))
}

/// Returns the sessions that match a filter, and that were open when the operation was published.
async fn select(control: &Control, filter: &Selection, published: Instant) -> Vec<RequestId> {
    let entries = control.sessions().await;
    let concerned = entries.iter().filter(|entry| entry.started <= published && filter.matches(entry));
    concerned.map(|entry| entry.id).collect()
}
