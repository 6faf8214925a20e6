//! Gets and renews the certificates of `[acme.NAME]` sections: one order after another, while this process alone serves.

mod precedence;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::precedence::Attempts;
use crate::client::acme::order::{FailureCause, OrderFailure, Orderer};
use crate::client::acme::schedule::pause;
use crate::client::acme::{ChallengeKind, Held, Refusal};
use crate::client::clients::HttpClients;
use crate::config::{AcmeConfig, ListenAddress};
use crate::front::gateway::Gateway;
use crate::front::listeners::AcmeSection;
use crate::front::snapshot::Snapshot;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::tasks::Tasks;

/// The longest time until a changed configuration, an upgrade or a certificate that is due is noticed.
const NOTICE: Duration = Duration::from_millis(500);

/// The longest time until an order in progress notices an upgrade: an upgrade takes longer, so that the next process makes
/// its orders after this one.
const GIVE_UP: Duration = Duration::from_millis(20);

/// The failures of a scope: all of its orders that were not followed by a success.
#[derive(Debug, Clone, Copy, Default)]
struct Failures {
    count: u32,
    /// When the next order may begin.
    next: Option<Instant>,
}

/// The orders of the process.
#[derive(Debug, Default)]
struct Orders {
    clients: HttpClients,
    tasks: Tasks,
    /// With the section whose order failed. Those of sections that the snapshot in use lacks are dropped.
    failures: HashMap<Scope, (Arc<AcmeConfig>, Failures)>,
    /// The sections whose stored refusals were read. A section that changes is tried at once.
    known: HashSet<Arc<str>>,
    /// The challenges that were validated last, by section. They are tried first.
    validated: HashMap<Arc<str>, ChallengeKind>,
    /// Which name is ordered first. One that makes the authority refuse holds up the others for one pause, not for ever.
    attempts: Attempts,
}

/// What a failure holds up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    /// All sections with this directory.
    Authority(String),
    /// All names of a section.
    Section(Arc<str>),
    /// One name of a section.
    Name(Arc<str>, Arc<str>),
}

impl Scope {
    fn of(config: &AcmeConfig, name: &Arc<str>, cause: &FailureCause) -> Self {
        match cause {
            FailureCause::Authority(_) | FailureCause::Refused(_) => Self::authority(config),
            FailureCause::Account(_) | FailureCause::Files(_) => Self::Section(Arc::clone(&config.name)),
            FailureCause::Name(_) => Self::Name(Arc::clone(&config.name), Arc::clone(name)),
        }
    }

    fn authority(config: &AcmeConfig) -> Self {
        Self::Authority(config.directory.uri().to_string())
    }

    /// Returns what an order for a name ends when it succeeds.
    fn all(config: &AcmeConfig, name: &Arc<str>) -> [Self; 3] {
        let section = Arc::clone(&config.name);
        [Self::authority(config), Self::Section(Arc::clone(&section)), Self::Name(section, Arc::clone(name))]
    }
}

/// Orders the certificates that are missing or due for renewal, until the drain. An order in progress is given up when
/// an upgrade or the drain begins: the next process makes it again. Never returns.
pub(super) async fn run(gateway: &Gateway) {
    let mut orders = Orders::default();
    let lifecycle = &gateway.process.lifecycle;
    while lifecycle.is_admitting() {
        let snapshot = gateway.snapshot();
        orders.follow(&snapshot);
        match orders.next(&snapshot, clock::now()).filter(|_| !lifecycle.is_upgrading()) {
            Some((section, name)) => orders.make(gateway, &snapshot, &section, &name).await,
            None => sleep(NOTICE).await,
        }
    }
    std::future::pending::<()>().await;
}

impl Orders {
    /// Forgets the failures of sections that changed, which are tried at once, and of those that the configuration lacks.
    /// Reads how long the process before this one was refused.
    fn follow(&mut self, snapshot: &Snapshot) {
        self.failures.retain(|_, (config, _)| snapshot.acmes().iter().any(|section| section.config == *config));
        let is_used = |name: &str| snapshot.acmes().iter().any(|section| &*section.config.name == name);
        self.validated.retain(|name, _| is_used(name));
        self.attempts.retain(is_used);
        for AcmeSection { config, held } in snapshot.acmes() {
            if self.known.insert(Arc::clone(&config.name)) {
                self.resume(config, held);
            }
        }
    }

    fn resume(&mut self, config: &Arc<AcmeConfig>, held: &Held) {
        let Some((refusal, unix)) = held.refusal().zip(clock::unix()) else { return };
        let (left, acme) = (refusal.left(unix), &*config.name);
        if left.is_zero() {
            return;
        }
        tracing::warn!(acme, retry_secs = left.as_secs(), "orders wait: the certificate authority refused them before");
        let failures = Failures { count: refusal.count, next: Some(clock::after(clock::now(), left)) };
        let known = self.failures.entry(Scope::authority(config)).or_insert((Arc::clone(config), failures));
        if known.1.next < failures.next {
            *known = (Arc::clone(config), failures);
        }
    }

    fn failures(&self, scope: &Scope) -> Failures {
        self.failures.get(scope).map(|(_, failures)| *failures).unwrap_or_default()
    }

    /// Returns a name whose certificate is missing or due for renewal and may be ordered now: of those, one with the
    /// fewest failed orders first, then one without a certificate, then the one that was not ordered for longest.
    fn next(&self, snapshot: &Snapshot, now: Instant) -> Option<(AcmeSection, Arc<str>)> {
        // Without the time nothing is due, and no certificate authority can be trusted.
        let unix = clock::unix()?;
        let may_order = |scope: &Scope| self.failures(scope).next.is_none_or(|next| next <= now);
        let due = snapshot.acmes().iter().flat_map(|section| {
            section.config.names.iter().filter_map(move |name| {
                let held = section.held.certificate(name);
                let is_due = held.as_ref().is_none_or(|held| held.renews <= unix);
                let scopes = Scope::all(&section.config, name);
                let precedence = self.attempts.precedence(&section.config.name, name, held.is_some());
                (is_due && scopes.iter().all(may_order)).then_some((precedence, section, name))
            })
        });
        let (_, section, name) = due.min_by_key(|(precedence, ..)| *precedence)?;
        Some((section.clone(), Arc::clone(name)))
    }

    /// Makes an order, and notes its outcome.
    async fn make(&mut self, gateway: &Gateway, snapshot: &Snapshot, section: &AcmeSection, name: &Arc<str>) {
        let AcmeSection { config, held } = section;
        // A process that failed to replace this one may have stored another certificate.
        let unix = clock::unix().unwrap_or_default();
        if held.read_again(name).is_some_and(|held| held.renews > unix) {
            return;
        }
        let orderer = Orderer {
            config: Arc::clone(config),
            held: Arc::clone(held),
            challenges: Arc::clone(gateway.acme.challenges()),
            client: self.clients.trusting(&config.roots),
        };
        let failed_before = self.failures(&Scope::Name(Arc::clone(&config.name), Arc::clone(name))).count;
        let kinds = kinds(snapshot, self.validated.get(&config.name).copied(), failed_before);
        self.attempts.begin(&config.name, name);
        let (acme, name_text) = (&*config.name, &**name);
        tracing::info!(name = name_text, acme, directory = %config.directory, "ordering a certificate");
        let Some(outcome) = self.execute(gateway, orderer, name, kinds).await else {
            tracing::info!(name = name_text, acme, "the order of a certificate is given up: it is made again later");
            return;
        };
        held.count_order(outcome.is_ok());
        self.attempts.end(&config.name, name, outcome.is_ok());
        match outcome {
            Ok(kind) => {
                // An authorization that is still valid says nothing about challenges.
                if let Some(kind) = kind {
                    self.validated.insert(Arc::clone(&config.name), kind);
                }
                for scope in Scope::all(config, name) {
                    self.failures.remove(&scope);
                }
                held.store_refusal(None);
                log_issued(held, acme, name);
            }
            Err(OrderFailure { cause, retry_after }) => {
                let scope = Scope::of(config, name, &cause);
                let count = self.failures(&scope).count.saturating_add(1);
                let pause = pause(count, retry_after, u64::from_be_bytes(random()));
                let failures = Failures { count, next: Some(clock::after(clock::now(), pause)) };
                self.failures.insert(scope, (Arc::clone(config), failures));
                if matches!(cause, FailureCause::Refused(_)) {
                    let until = clock::unix().unwrap_or_default().saturating_add(pause).as_secs();
                    held.store_refusal(Some(Refusal { count, until }));
                }
                log_failure(held, acme, name, &cause, (count, pause));
            }
        }
    }

    /// Executes an order in a task, so that a panic of the library ends only the task. Returns `None` if the order is
    /// given up because of an upgrade or the drain, or because the configuration lacks its section.
    async fn execute(
        &self,
        gateway: &Gateway,
        orderer: Orderer,
        name: &Arc<str>,
        kinds: &'static [ChallengeKind],
    ) -> Option<Result<Option<ChallengeKind>, OrderFailure>> {
        let (reply, mut replied) = oneshot::channel();
        let (given_up, config, name) = (CancellationToken::new(), Arc::clone(&orderer.config), Arc::clone(name));
        let _cancels = given_up.clone().drop_guard();
        self.tasks.start(async move {
            tokio::select! {
                outcome = orderer.order(&name, kinds) => drop(reply.send(outcome)),
                () = given_up.cancelled() => {}
            }
        });
        loop {
            let notice = clock::after(clock::now(), GIVE_UP);
            tokio::select! {
                outcome = &mut replied => return Some(outcome.unwrap_or_else(|_| Err(ended_early()))),
                () = sleep_until(notice.into()) => {}
                () = gateway.process.lifecycle.draining() => {}
            }
            let is_used = gateway.snapshot().acmes().iter().any(|section| section.config == config);
            let lifecycle = &gateway.process.lifecycle;
            if lifecycle.is_upgrading() || !lifecycle.is_admitting() || !is_used {
                return None;
            }
        }
    }
}

/// Returns the challenges that can be answered, by preference: HTTP-01 if there is a plain TCP listener, unless the other one
/// was validated last. Each order for a name that failed before prefers the other one.
fn kinds(snapshot: &Snapshot, validated: Option<ChallengeKind>, failed: u32) -> &'static [ChallengeKind] {
    let is_plain = |(address, listener): (&ListenAddress, &crate::config::ListenerConfig)| {
        listener.tls.is_none() && address.tcp().is_some()
    };
    let prefers_tls = (validated == Some(ChallengeKind::TlsAlpn01)) ^ (failed % 2 == 1);
    match (snapshot.listeners().any(is_plain), prefers_tls) {
        (false, _) => &[ChallengeKind::TlsAlpn01],
        (true, true) => &[ChallengeKind::TlsAlpn01, ChallengeKind::Http01],
        (true, false) => &[ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
    }
}

fn ended_early() -> OrderFailure {
    let cause = FailureCause::Authority("internal error: the order ended early; please report this".to_owned());
    OrderFailure { cause, retry_after: None }
}

fn log_issued(held: &Held, acme: &str, name: &str) {
    let unix = clock::unix().unwrap_or_default();
    let renews = held.certificate(name).map(|held| held.renews.saturating_sub(unix)).unwrap_or_default();
    tracing::info!(name, acme, renews_in_secs = renews.as_secs(), "a certificate was issued, and is in use");
}

/// Logs a failure: as an error if clients of the name cannot connect.
fn log_failure(held: &Held, acme: &str, name: &str, cause: &FailureCause, (failures, pause): (u32, Duration)) {
    let (unix, retry_secs) = (clock::unix().unwrap_or_default(), pause.as_secs());
    let is_served = held.certificate(name).is_some_and(|held| held.ends() > unix);
    if is_served {
        tracing::warn!(name, acme, %cause, failures, retry_secs, "no renewed certificate: the one in use stays");
    } else {
        tracing::error!(name, acme, %cause, failures, retry_secs, "no certificate: clients of this name cannot connect");
    }
}
