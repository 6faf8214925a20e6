//! Slots that the nodes count together: asks the server for them, releases them, and keeps them registered.
//!
//! The server has a sorted set of sessions for each address or identity. It is exact: a script takes a slot only if one is
//! free, and removes those of dead nodes before it refuses. While the server is away the caller decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Script};
use tokio::time::{sleep, timeout_at};

use super::keys::Keys;
use super::link::{AskError, Link, PAUSE_MAX, is_up};
use super::member::{member, node_and_session};
use super::nodes::{Nodes, View};
use super::purges::Purges;
use super::slot_registry::{DueSlot, Entry, Release, SlotRegistry};
use super::time::millis;
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
/// The pause after a round that failed. It is twice the one before after each further one.
const PAUSE: Duration = Duration::from_millis(100);
/// The time in which releases are gathered for one round trip. A client that returns at once needs its slot back.
const GATHER: Duration = Duration::from_millis(5);
/// The maximum number of slots that are released or registered in one round trip.
const BATCH: usize = 500;
/// The age of the last writes that a server may have lost when its connection was lost: it replicates them later.
const UNREPLICATED: Duration = Duration::from_secs(10);
/// How long after its start a node that is not registered yet may keep its clients waiting.
const START: Duration = Duration::from_secs(1);

/// The slots that the nodes count together.
#[derive(Debug)]
pub struct Slots {
    keys: Keys,
    script: Script,
    registry: Arc<SlotRegistry>,
    purges: Purges,
    started: Instant,
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
    /// The server is away or answers with an error, or this node is not registered. The claims are registered when that
    /// changes, if they are kept.
    Unavailable(Vec<Claim>),
    /// The answer did not arrive in time, and the server is not taken for away yet.
    Late,
}

impl Slots {
    /// Creates the slots of a node that is about to start. `registry` has those of its sessions.
    pub fn new(keys: Keys, registry: Arc<SlotRegistry>) -> Self {
        Self {
            keys,
            script: Script::new(include_str!("slots.lua")),
            registry,
            purges: Purges::default(),
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

    /// Asks the server for slots, until the deadline at most.
    pub async fn take(&self, link: &Link, nodes: &Nodes, asks: &SlotAsks, deadline: Instant) -> Taken {
        let view = self.registered(link, nodes, deadline).await;
        let holder = Holder { id: asks.id, opened: clock::now() };
        let claims: Vec<_> = asks.slots.iter().map(|ask| self.claim(&ask.key, holder, view.as_deref())).collect();
        let Some(view) = view else {
            // The server may answer meanwhile.
            self.registry.note_incomplete();
            return Taken::Unavailable(claims);
        };
        let asking = Asking { slots: self, link, view: &view, id: asks.id, treatment: asks.treatment, deadline };
        let answers = match asks.slots.as_slice() {
            [first, second] if asks.treatment == OnSessionLimit::CloseOldest => {
                // A session that makes way in one limit does so in the other one.
                let first = asking.ask(first, &[]).await;
                let removed = if let Ok(Answer::Taken(removed)) = &first { removed.as_slice() } else { &[] };
                let second = asking.ask(second, removed).await;
                vec![first, second]
            }
            [first, second] => <[_; 2]>::from(tokio::join!(asking.ask(first, &[]), asking.ask(second, &[]))).into(),
            [one] => vec![asking.ask(one, &[]).await],
            _ => Vec::new(),
        };
        let (mut full, mut failed) = (None, None);
        let (mut removed, now) = (Vec::new(), clock::now());
        for (SlotAsk { key, .. }, answer) in asks.slots.iter().zip(answers) {
            match answer {
                Ok(Answer::Taken(members)) => {
                    self.registry.note_granted(key, asks.id, now);
                    removed.extend(members.into_iter().map(|member| (key, member)));
                }
                Ok(Answer::Full) => {
                    self.registry.note_refused(key, asks.id);
                    full = Some(key.clone());
                }
                Ok(Answer::FullBefore) => {
                    self.registry.note_unanswered(key, asks.id);
                    full = Some(key.clone());
                }
                Err(error) => {
                    self.registry.note_unanswered(key, asks.id);
                    failed = failed.filter(|failed| *failed != AskError::Late).or(Some(error));
                }
            }
        }
        if nodes.view().is_none_or(|current| current.id != view.id) {
            // This node has another id now, under which its other slots may be registered already.
            self.registry.note_incomplete();
        }
        match (full, failed) {
            // The other claim, if the session has it, is released here.
            (Some(key), _) => Taken::Full(key),
            (None, None) => {
                let (replaced, elsewhere) = self.note_replaced(asks, &removed, &view);
                Taken::Held { claims, replaced, elsewhere }
            }
            // They are released here, since the server may have taken them.
            (None, Some(AskError::Late)) if self.can_ask(link, nodes) => Taken::Late,
            (None, Some(_)) => Taken::Unavailable(claims),
        }
    }

    /// Has sessions make way, whose members these are. Returns those of this node, and those of other nodes.
    fn note_replaced(
        &self,
        asks: &SlotAsks,
        members: &[(&SlotKey, String)],
        view: &View,
    ) -> (Vec<(SlotKey, SessionId)>, Vec<SessionId>) {
        let (mut replaced, mut elsewhere) = (Vec::new(), Vec::new());
        for (key, member) in members {
            let Some((node, id)) = node_and_session(member) else { continue };
            asks.slots.iter().for_each(|ask| self.registry.release_of(&ask.key, node, id));
            if self.registry.lose(key, id) {
                replaced.push(((*key).clone(), id));
            } else if *node != *view.id && !elsewhere.contains(&id) {
                elsewhere.push(id);
            }
        }
        (replaced, elsewhere)
    }

    /// Returns the nodes, if this one is registered. At the start of the node it may wait for that.
    async fn registered(&self, link: &Link, nodes: &Nodes, deadline: Instant) -> Option<Arc<View>> {
        let mut registrations = nodes.registrations();
        let is_starting = clock::now().saturating_duration_since(self.started) < START;
        if is_starting && *registrations.borrow_and_update() == 0 {
            // Otherwise it is not registered.
            let _ = timeout_at(deadline.into(), registrations.changed()).await;
        }
        nodes.live(clock::now()).filter(|_| link.is_up())
    }

    fn claim(&self, key: &SlotKey, holder: Holder, view: Option<&View>) -> Claim {
        self.registry.ask(key, holder, view.map(|view| &view.id));
        let store: Arc<dyn SlotStore> = Arc::<SlotRegistry>::clone(&self.registry);
        Claim::new(store, key.clone(), holder.id)
    }

    /// Has the members of dead nodes removed from a key.
    fn purge_later(&self, key: &SlotKey) {
        if self.purges.note_due(key) {
            self.registry.pending.notify_one();
        }
    }

    /// Removes the members of dead nodes from the keys that were full.
    async fn purge(&self, link: &Link, view: &View) {
        for key in self.purges.take_due().iter().filter(|key| !self.purges.is_purged(key, view)) {
            let mut call = self.script.key(self.keys.named(key));
            call.arg("").arg(1).arg(0).arg(millis(KEPT)).arg(view.server_millis).arg(view.nodes.len());
            for node in &view.nodes {
                call.arg(&*node.id);
            }
            if link.script::<Vec<String>>(&call).await.is_err() {
                // The next upgrade that finds a key full asks again.
                return;
            }
            self.purges.note_purged(key, view);
        }
    }

    /// Releases slots at the server, and keeps the others registered there. Never returns.
    pub async fn run(&self, link: &Link, nodes: &Nodes) {
        let (mut states, mut registrations) = (link.changes(), nodes.registrations());
        let (mut sweep, mut connected, mut pause) = (Sweep::default(), (0, self.started), PAUSE);
        loop {
            let state = *states.borrow_and_update();
            let is_up = is_up(state);
            registrations.borrow_and_update();
            if is_up {
                let (before, since) = std::mem::replace(&mut connected, (state, clock::now()));
                if before != state {
                    self.registry.forget_since(since.checked_sub(UNREPLICATED).unwrap_or(self.started));
                }
            }
            let done = match nodes.live(clock::now()).filter(|_| is_up) {
                Some(view) => self.send_all(link, &view, &mut sweep).await,
                None => Ok(()),
            };
            let dropped = self.registry.take_dropped();
            if dropped > 0 {
                tracing::warn!(dropped, "too many slots wait to be released at the cluster's server");
            }
            if done.is_err() {
                pause = pause.saturating_mul(2).min(PAUSE_MAX);
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = states.changed() => {}
                }
                continue;
            }
            pause = PAUSE;
            // What is added at the same time is sent together.
            sleep(GATHER).await;
            tokio::select! {
                () = self.registry.pending.notified() => {}
                () = sleep(LOOK) => {}
                _ = states.changed() => {}
                _ = registrations.changed() => {}
            }
        }
    }

    /// Sends what is to be sent under the id of this view. Releases and registrations are sent one after the other, so no
    /// slot is registered after its release.
    async fn send_all(&self, link: &Link, view: &View, sweep: &mut Sweep) -> Result<(), AskError> {
        self.purge(link, view).await;
        loop {
            let releases = self.registry.take_releases(BATCH, clock::now());
            if releases.is_empty() {
                break;
            }
            let commands: Vec<_> = releases.iter().map(|release| self.release(release)).collect();
            // A release that the server answers with an error would not succeed later.
            if let Err(error @ (AskError::Away | AskError::Late)) = link.each(&commands).await {
                self.registry.put_back(releases);
                return Err(error);
            }
        }
        if self.registry.take_incomplete() || sweep.node.as_ref() != Some(&view.id) {
            if let Err(error) = self.complete(link, view).await {
                self.registry.note_incomplete();
                return Err(error);
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
    async fn complete(&self, link: &Link, view: &View) -> Result<(), AskError> {
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
    async fn register(&self, link: &Link, view: &View, slots: &[DueSlot]) -> Result<(), AskError> {
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
        if let Err(error @ (AskError::Away | AskError::Late)) = link.each(&commands).await {
            return Err(error);
        }
        // Those that the server answers with an error are sent again with the refresh.
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
    deadline: Instant,
}

/// The answer for one slot.
#[derive(Debug)]
enum Answer {
    /// The session has it. The sessions of these members make way.
    Taken(Vec<String>),
    /// No slot is free.
    Full,
    /// No slot was free, and there was no time to learn whether dead nodes have some. The server may have given it since.
    FullBefore,
}

impl Asking<'_> {
    /// Asks for one slot. `removed` are members that make way in any case.
    async fn ask(&self, ask: &SlotAsk, removed: &[String]) -> Result<Answer, AskError> {
        let treatment = self.treatment;
        if self.slots.purges.is_purged(&ask.key, self.view) {
            return self.call(ask, treatment, false, removed).await;
        }
        let began = clock::now();
        let first = self.call(ask, OnSessionLimit::Refuse, false, removed).await?;
        if !matches!(first, Answer::Full) {
            return Ok(first);
        }
        let now = clock::now();
        if self.deadline.saturating_duration_since(now) < now.saturating_duration_since(began) {
            self.slots.purge_later(&ask.key);
            return if treatment == OnSessionLimit::Refuse { Ok(Answer::Full) } else { Err(AskError::Late) };
        }
        match self.call(ask, treatment, true, removed).await {
            Err(AskError::Late) => {
                self.slots.purge_later(&ask.key);
                if treatment == OnSessionLimit::Refuse { Ok(Answer::FullBefore) } else { Err(AskError::Late) }
            }
            answer => {
                if answer.is_ok() {
                    self.slots.purges.note_purged(&ask.key, self.view);
                }
                answer
            }
        }
    }

    async fn call(
        &self,
        ask: &SlotAsk,
        treatment: OnSessionLimit,
        is_purging: bool,
        removed: &[String],
    ) -> Result<Answer, AskError> {
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
        let mut answer: Vec<String> = self.link.script_until(&call, self.deadline).await?;
        if answer.first().is_some_and(|taken| taken == "1") {
            answer.remove(0);
            return Ok(Answer::Taken(answer));
        }
        Ok(Answer::Full)
    }
}
