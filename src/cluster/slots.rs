//! Slots that the nodes count together: asks the server for them, releases them, and keeps them registered.
//!
//! The server has a sorted set of sessions for each address or identity. It is exact: a script takes a slot only if one is
//! free, and removes those of dead nodes before it refuses. While the server is away the caller decides.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::{Cmd, Script};
use tokio::time::{sleep, timeout};

use super::keys::Keys;
use super::link::{Link, Unavailable, is_up};
use super::nodes::{Nodes, View};
use super::slot_registry::{DueSlot, Entry, Release, SlotRegistry};
use crate::config::ClusterConfig;
use crate::policy::limits::OnSessionLimit;
use crate::policy::session_slots::{Holder, SessionId};
use crate::policy::shared_slots::{SlotAsk, SlotAsks};
use crate::policy::slot_store::{Claim, SlotKey, SlotStore};
use crate::runtime::clock;

/// The time to live of a key after the last write to it.
const KEPT: Duration = Duration::from_hours(1);
/// Within this time each slot is looked at, and registered again if the server has had it last before half of it.
const REFRESH: Duration = Duration::from_mins(20);
/// The interval at which some slots are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The pause after an attempt that failed, and between two rounds over all slots.
const PAUSE: Duration = Duration::from_millis(100);
/// The maximum number of slots that are released or registered in one round trip.
const BATCH: usize = 500;
/// The age of the last writes that a server may have lost when its connection was lost: it replicates them later.
const UNREPLICATED: Duration = Duration::from_secs(10);
/// How long after its start a node that is not registered yet may keep its clients waiting.
const START: Duration = Duration::from_secs(1);
/// The maximum number of keys that are remembered as free of members of dead nodes.
const PURGED_MAX: usize = 4_096;

/// The slots that the nodes count together.
#[derive(Debug)]
pub struct Slots {
    config: Arc<ClusterConfig>,
    keys: Keys,
    script: Script,
    registry: Arc<SlotRegistry>,
    purged: Mutex<Purged>,
    started: Instant,
}

/// The keys that have no members of nodes that were dead at the heartbeat of this time of the server.
#[derive(Debug, Default)]
struct Purged {
    server_millis: u64,
    keys: HashSet<SlotKey>,
}

/// How far the slots were looked at.
#[derive(Debug, Default)]
struct Sweep {
    /// The id of the node under which all of them were registered.
    node: Option<Arc<str>>,
    /// The last one that was looked at, and when.
    last: Option<Entry>,
    looked: Option<Instant>,
}

/// The answer for the slots of a session.
#[derive(Debug)]
pub enum Taken {
    /// It has them.
    Held {
        /// The slots.
        claims: Vec<Claim>,
        /// The sessions of this node whose slots it has taken over.
        replaced: Vec<(SlotKey, SessionId)>,
        /// Those of other nodes.
        elsewhere: Vec<SessionId>,
    },
    /// No slot of this key is free.
    Full(SlotKey),
    /// The server is away, or this node is not registered. The claims are registered when that changes, if they are kept.
    Unavailable(Vec<Claim>),
    /// The answer did not arrive in time, and the server is not taken for away yet.
    Late,
}

impl Slots {
    /// Creates the slots of a node that is about to start. `registry` has those of its sessions.
    pub fn new(config: Arc<ClusterConfig>, keys: Keys, registry: Arc<SlotRegistry>) -> Self {
        Self {
            config,
            keys,
            script: Script::new(include_str!("slots.lua")),
            registry,
            purged: Mutex::default(),
            started: clock::now(),
        }
    }

    /// Returns the slots that the sessions of this node hold.
    pub fn registry(&self) -> &Arc<SlotRegistry> {
        &self.registry
    }

    /// Whether the server can be asked.
    pub fn can_ask(&self, link: &Link, nodes: &Nodes) -> bool {
        link.is_up() && nodes.live(clock::now()).is_some()
    }

    /// Asks the server for slots, for `cluster.timeout` at most.
    pub async fn take(&self, link: &Link, nodes: &Nodes, asks: &SlotAsks) -> Taken {
        let began = clock::now();
        let view = self.registered(link, nodes).await;
        let holder = Holder { id: asks.id, opened: began };
        let claims: Vec<_> = asks.slots.iter().map(|ask| self.claim(&ask.key, holder, view.as_deref())).collect();
        let Some(view) = view else { return Taken::Unavailable(claims) };
        let asking = Asking { slots: self, link, view: &view, id: asks.id, treatment: asks.treatment, began };
        let answers = match asks.slots.as_slice() {
            [first, second] if asks.treatment == OnSessionLimit::CloseOldest => {
                // A session that makes way in one limit does so in the other one.
                let first = asking.ask(first, &[]).await;
                let removed = first.as_ref().ok().and_then(Option::as_deref).unwrap_or_default();
                let second = asking.ask(second, removed).await;
                vec![first, second]
            }
            [first, second] => <[_; 2]>::from(tokio::join!(asking.ask(first, &[]), asking.ask(second, &[]))).into(),
            [one] => vec![asking.ask(one, &[]).await],
            _ => Vec::new(),
        };
        let (mut full, mut is_answered) = (None, true);
        let (mut replaced, mut elsewhere, now) = (Vec::new(), Vec::new(), clock::now());
        for (SlotAsk { key, .. }, answer) in asks.slots.iter().zip(answers) {
            match answer {
                Ok(Some(removed)) => {
                    self.registry.note_granted(key, asks.id, now);
                    for id in removed.iter().filter_map(|member| session_of(member)) {
                        if self.registry.lose(key, id) { replaced.push((key.clone(), id)) } else { elsewhere.push(id) }
                    }
                }
                Ok(None) => {
                    self.registry.note_refused(key, asks.id);
                    full = Some(key.clone());
                }
                Err(Unavailable) => {
                    self.registry.note_unanswered(key, asks.id);
                    is_answered = false;
                }
            }
        }
        match full {
            // The other claim, if the session has it, is released here.
            Some(key) => Taken::Full(key),
            None if is_answered => Taken::Held { claims, replaced, elsewhere },
            // They are released here, since the server may have taken them.
            None if self.can_ask(link, nodes) => Taken::Late,
            None => Taken::Unavailable(claims),
        }
    }

    /// Returns the nodes, if this one is registered. At the start of the node it may wait for that.
    async fn registered(&self, link: &Link, nodes: &Nodes) -> Option<Arc<View>> {
        let mut registrations = nodes.registrations();
        let is_starting = clock::now().saturating_duration_since(self.started) < START;
        if is_starting && *registrations.borrow_and_update() == 0 {
            // Otherwise it is not registered.
            let _ = timeout(self.config.timeout, registrations.changed()).await;
        }
        nodes.live(clock::now()).filter(|_| link.is_up())
    }

    fn claim(&self, key: &SlotKey, holder: Holder, view: Option<&View>) -> Claim {
        self.registry.ask(key, holder, view.map(|view| &view.id));
        let store: Arc<dyn SlotStore> = Arc::<SlotRegistry>::clone(&self.registry);
        Claim::new(store, key.clone(), holder.id)
    }

    fn is_purged(&self, key: &SlotKey, view: &View) -> bool {
        let purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner);
        purged.server_millis == view.server_millis && purged.keys.contains(key)
    }

    fn note_purged(&self, key: &SlotKey, view: &View) {
        let mut purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner);
        if purged.server_millis != view.server_millis {
            *purged = Purged { server_millis: view.server_millis, keys: HashSet::new() };
        }
        if purged.keys.len() < PURGED_MAX {
            purged.keys.insert(key.clone());
        }
    }

    /// Releases slots at the server, and keeps the others registered there. Never returns.
    pub async fn run(&self, link: &Link, nodes: &Nodes) {
        let (mut states, mut registrations) = (link.changes(), nodes.registrations());
        let (mut sweep, mut down_since) = (Sweep::default(), None);
        loop {
            let is_up = is_up(*states.borrow_and_update());
            registrations.borrow_and_update();
            if is_up && let Some(down_since) = down_since.take() {
                self.registry.forget_since(Instant::checked_sub(&down_since, UNREPLICATED).unwrap_or(self.started));
            } else if !is_up {
                down_since = down_since.or_else(|| Some(clock::now()));
            }
            let done = match nodes.live(clock::now()).filter(|_| is_up) {
                Some(view) => self.send_all(link, &view, &mut sweep).await,
                None => Ok(()),
            };
            let dropped = self.registry.take_dropped();
            if dropped > 0 {
                tracing::warn!(dropped, "too many slots wait to be released at the cluster's server");
            }
            // What is added at the same time is sent together.
            sleep(PAUSE).await;
            if done.is_ok() {
                tokio::select! {
                    () = self.registry.pending.notified() => {}
                    () = sleep(LOOK) => {}
                    _ = states.changed() => {}
                    _ = registrations.changed() => {}
                }
            }
        }
    }

    /// Sends what is to be sent under the id of this view. Releases and registrations are sent one after the other, so no
    /// slot is registered after its release.
    async fn send_all(&self, link: &Link, view: &View, sweep: &mut Sweep) -> Result<(), Unavailable> {
        loop {
            let releases = self.registry.take_releases(BATCH, clock::now());
            if releases.is_empty() {
                break;
            }
            let commands: Vec<_> = releases.iter().map(|release| self.release(release)).collect();
            if let Err(unavailable) = link.each(&commands).await {
                self.registry.put_back(releases);
                return Err(unavailable);
            }
        }
        if self.registry.take_incomplete() || sweep.node.as_ref() != Some(&view.id) {
            if let Err(unavailable) = self.complete(link, view).await {
                self.registry.note_incomplete();
                return Err(unavailable);
            }
            sweep.node = Some(Arc::clone(&view.id));
        }
        let now = clock::now();
        if sweep.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return Ok(());
        }
        sweep.looked = Some(now);
        let part = self.registry.count() / usize::try_from(REFRESH.as_secs() / LOOK.as_secs()).unwrap_or(usize::MAX);
        let before = now.checked_sub(REFRESH / 2).unwrap_or(self.started);
        let due = self.registry.due(sweep.last.as_ref(), part.saturating_add(1), &view.id, Some(before));
        sweep.last = due.last;
        for slots in due.slots.chunks(BATCH) {
            self.register(link, view, slots).await?;
        }
        Ok(())
    }

    /// Registers all slots that the server does not have under the id of this view.
    async fn complete(&self, link: &Link, view: &View) -> Result<(), Unavailable> {
        let mut last = None;
        loop {
            let due = self.registry.due(last.as_ref(), BATCH, &view.id, None);
            self.register(link, view, &due.slots).await?;
            last = due.last;
            if last.is_none() {
                return Ok(());
            }
        }
    }

    /// Registers slots, even beyond the limits: their sessions are open.
    async fn register(&self, link: &Link, view: &View, slots: &[DueSlot]) -> Result<(), Unavailable> {
        if slots.is_empty() {
            return Ok(());
        }
        let mut commands = Vec::new();
        for DueSlot { entry: (id, key), opened, earlier } in slots {
            if let Some(node) = earlier {
                commands.push(self.release(&Release { key: key.clone(), node: Arc::clone(node), id: *id }));
            }
            let key = self.keys.named(key);
            let mut add = redis::cmd("ZADD");
            add.arg(&key).arg(view.millis_at(*opened)).arg(member(&view.id, *id));
            let mut expire = redis::cmd("PEXPIRE");
            expire.arg(&key).arg(millis(KEPT));
            commands.extend([add, expire]);
        }
        link.each(&commands).await?;
        self.registry.note_written(slots, clock::now());
        Ok(())
    }

    fn release(&self, release: &Release) -> Cmd {
        let mut command = redis::cmd("ZREM");
        command.arg(self.keys.named(&release.key)).arg(member(&release.node, release.id));
        command
    }
}

/// A request for the slots of one session.
struct Asking<'a> {
    slots: &'a Slots,
    link: &'a Link,
    view: &'a View,
    id: SessionId,
    treatment: OnSessionLimit,
    began: Instant,
}

impl Asking<'_> {
    /// Asks for one slot. `removed` are members that make way in any case. Returns the members that were removed for it;
    /// `None` if no slot is free.
    async fn ask(&self, ask: &SlotAsk, removed: &[String]) -> Result<Option<Vec<String>>, Unavailable> {
        let treatment = self.treatment;
        if self.slots.is_purged(&ask.key, self.view) {
            return self.call(ask, treatment, false, removed).await;
        }
        let taken = self.call(ask, OnSessionLimit::Refuse, false, removed).await?;
        if taken.is_some() {
            return Ok(taken);
        }
        let left = self.slots.config.timeout.saturating_sub(clock::now().saturating_duration_since(self.began));
        let answer = timeout(left, self.call(ask, treatment, true, removed)).await.map_err(|_| Unavailable)??;
        self.slots.note_purged(&ask.key, self.view);
        Ok(answer)
    }

    async fn call(
        &self,
        ask: &SlotAsk,
        treatment: OnSessionLimit,
        is_purging: bool,
        removed: &[String],
    ) -> Result<Option<Vec<String>>, Unavailable> {
        let Self { slots, view, .. } = self;
        let mut call = slots.script.key(slots.keys.named(&ask.key));
        let closes = treatment == OnSessionLimit::CloseOldest;
        call.arg(member(&view.id, self.id)).arg(ask.max.get()).arg(u8::from(closes)).arg(millis(KEPT));
        if is_purging {
            call.arg(view.server_millis).arg(view.nodes.len());
            for node in &view.nodes {
                call.arg(&*node.id);
            }
        } else {
            call.arg("").arg(0);
        }
        call.arg(removed);
        let mut answer: Vec<String> = self.link.script(&call).await?;
        if answer.first().is_some_and(|taken| taken == "1") {
            answer.remove(0);
            return Ok(Some(answer));
        }
        Ok(None)
    }
}

/// Returns the name of a session of a node in a sorted set.
fn member(node: &str, id: SessionId) -> String {
    format!("{node}/{}", URL_SAFE_NO_PAD.encode(id.to_be_bytes()))
}

/// Returns the session of a name.
fn session_of(member: &str) -> Option<SessionId> {
    let bytes = URL_SAFE_NO_PAD.decode(member.rsplit_once('/')?.1).ok()?;
    Some(SessionId::from_be_bytes(bytes.try_into().ok()?))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_name_the_session() {
        let name = member("1764273600000-ab12cd34", 7);
        assert_eq!(name, "1764273600000-ab12cd34/AAAAAAAAAAAAAAAAAAAABw");
        assert_eq!(session_of(&name), Some(7));
        for other in ["", "x", "1-a/", "1-a/AAAA", "1-a/AAAAAAAAAAAAAAAAAAAAB!"] {
            assert_eq!(session_of(other), None, "{other}");
        }
    }
}
