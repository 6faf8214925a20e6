//! Gets and renews the certificates of `[acme.NAME]` sections: one order after another, while this process alone serves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::client::acme::order::{FailureCause, OrderFailure, Orderer};
use crate::client::acme::schedule::pause;
use crate::client::acme::{ChallengeKind, Held};
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

/// The failures of a section or of one of its names: all of its orders that were not followed by a success.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// When the next order may begin.
    next: Instant,
}

/// The orders of the process.
#[derive(Debug, Default)]
struct Orders {
    clients: HttpClients,
    tasks: Tasks,
    /// Those of sections, whose name is absent, and of their names. Those that the snapshot in use lacks are dropped.
    failures: HashMap<FailureKey, (Arc<AcmeConfig>, Failures)>,
    /// The challenges that were validated last, by section. They are tried first.
    validated: HashMap<Arc<str>, ChallengeKind>,
}

/// A section, and one of its names if only that failed.
type FailureKey = (Arc<str>, Option<Arc<str>>);

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
    fn follow(&mut self, snapshot: &Snapshot) {
        self.failures.retain(|_, (config, _)| snapshot.acmes().iter().any(|section| section.config == *config));
        self.validated.retain(|name, _| snapshot.acmes().iter().any(|section| section.config.name == *name));
    }

    fn failures(&self, section: &AcmeSection, name: Option<&Arc<str>>) -> Option<&Failures> {
        let key = (Arc::clone(&section.config.name), name.cloned());
        self.failures.get(&key).map(|(_, failures)| failures)
    }

    /// Returns a name whose certificate is missing or due for renewal and may be ordered now: of those, one with the
    /// fewest failures, and one without a certificate first.
    fn next(&self, snapshot: &Snapshot, now: Instant) -> Option<(AcmeSection, Arc<str>)> {
        // Without the time nothing is due, and no certificate authority can be trusted.
        let unix = clock::unix()?;
        let may_order = |failures: Option<&Failures>| failures.is_none_or(|failures| failures.next <= now);
        let sections = snapshot.acmes().iter().filter(|section| may_order(self.failures(section, None)));
        let due = sections.flat_map(|section| {
            section.config.names.iter().filter_map(move |name| {
                let failures = self.failures(section, Some(name));
                let held = section.held.certificate(name);
                let is_due = held.as_ref().is_none_or(|held| held.renews <= unix);
                let order = (failures.map_or(0, |failures| failures.count), held.is_some());
                (is_due && may_order(failures)).then_some((order, section, name))
            })
        });
        let (_, section, name) = due.min_by_key(|(order, ..)| *order)?;
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
        let kinds = kinds(snapshot, self.validated.get(&config.name).copied());
        let (acme, name_text) = (&*config.name, &**name);
        tracing::info!(name = name_text, acme, directory = %config.directory, "ordering a certificate");
        let Some(outcome) = self.execute(gateway, orderer, name, kinds).await else {
            tracing::info!(name = name_text, acme, "the order of a certificate is given up: it is made again later");
            return;
        };
        held.count_order(outcome.is_ok());
        let key = |name: Option<&Arc<str>>| (Arc::clone(&config.name), name.cloned());
        match outcome {
            Ok(kind) => {
                self.validated.insert(Arc::clone(&config.name), kind);
                self.failures.remove(&key(None));
                self.failures.remove(&key(Some(name)));
                log_issued(held, acme, name);
            }
            Err(OrderFailure { cause, retry_after }) => {
                let failed = Some(name).filter(|_| matches!(cause, FailureCause::Name(_)));
                let before = self.failures(section, failed).map_or(0, |failures| failures.count);
                let count = before.saturating_add(1);
                let pause = pause(count, retry_after, u64::from_be_bytes(random()));
                let failures = Failures { count, next: clock::after(clock::now(), pause) };
                self.failures.insert(key(failed), (Arc::clone(config), failures));
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
    ) -> Option<Result<ChallengeKind, OrderFailure>> {
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

/// Returns the challenges that can be answered, in the order in which they are tried: HTTP-01 first if there is a plain TCP
/// listener, unless the other one was validated last.
fn kinds(snapshot: &Snapshot, validated: Option<ChallengeKind>) -> &'static [ChallengeKind] {
    let is_plain = |(address, listener): (&ListenAddress, &crate::config::ListenerConfig)| {
        listener.tls.is_none() && address.tcp().is_some()
    };
    match (snapshot.listeners().any(is_plain), validated) {
        (false, _) => &[ChallengeKind::TlsAlpn01],
        (true, Some(ChallengeKind::TlsAlpn01)) => &[ChallengeKind::TlsAlpn01, ChallengeKind::Http01],
        (true, _) => &[ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
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
