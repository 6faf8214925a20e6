//! The nodes of the cluster: each registers itself by heartbeats, whose answers list the others.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::{Script, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::event::text;
use super::keys::Keys;
use super::link::{Link, Unavailable, is_up};
use super::log_limit::LogLimit;
use super::time::millis;
use crate::config::ClusterConfig;
use crate::runtime::clock;

/// The number of heartbeats within `node_timeout`.
const HEARTBEATS: u32 = 3;
/// The maximum number of nodes.
pub const NODES_MAX: usize = 1_000;
/// How long the list of nodes is kept at the server after the last heartbeat of all nodes.
const KEPT: Duration = Duration::from_hours(1);
/// The longest text of a node about itself that is read.
const FACTS_MAX_BYTES: usize = 4_096;
/// The number of nodes that a log line names.
const NAMES_MAX: usize = 10;
/// The interval of log lines about answers to heartbeats.
const ANSWERS_LOGGED: Duration = Duration::from_mins(1);

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The name of its machine.
    pub name: String,
    /// The address of its first listener.
    pub address: String,
    /// Its version of Tollgate.
    pub version: String,
    /// The digest of the parts of its configuration that all nodes should have in common.
    pub config: String,
    /// The digest of its secret, which is empty if it has none; `None` if its version says nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The generation of its configuration.
    pub generation: u64,
    /// The number of its sessions.
    pub sessions: u64,
}

/// A node that is not dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id. A node that was dead returns with another one.
    pub id: Arc<str>,
    /// The time since its last heartbeat.
    pub silent: Duration,
    /// What it says about itself; `None` if another version of Tollgate says it differently.
    pub facts: Option<NodeFacts>,
}

impl Node {
    /// Whether another node has the same secret; `None` if one of the two says nothing about it.
    pub fn has_secret_of(&self, other: &Self) -> Option<bool> {
        let secret = |node: &Self| node.facts.as_ref()?.secret.clone();
        secret(self).zip(secret(other)).map(|(own, other)| own == other)
    }
}

/// The nodes as of one heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The id of this node.
    pub id: Arc<str>,
    /// The time of the server in milliseconds. A node that is not listed and whose id begins with an earlier time is
    /// dead.
    pub server_millis: u64,
    /// When the heartbeat was sent.
    pub sent: Instant,
    /// All nodes that are not dead, with this one, in the order of their last heartbeats.
    pub nodes: Vec<Node>,
}

/// The nodes, as this one knows them.
#[derive(Debug)]
pub struct Nodes {
    config: Arc<ClusterConfig>,
    keys: Keys,
    script: Script,
    /// The random text of this process, with which each of its ids ends.
    process: String,
    view: ArcSwapOption<View>,
    /// The number of nodes before this one registered itself again, and the number of heartbeats for which it counts.
    earlier: Mutex<(usize, u32)>,
    /// The number of ids that this node has had.
    registrations: watch::Sender<u64>,
    /// The other nodes whose configurations or secrets differ from the own ones, with their digests as the log has them.
    differing: Mutex<HashMap<(Arc<str>, &'static str), String>>,
    /// The log lines about answers that cannot be read.
    unreadable: LogLimit,
}

impl Nodes {
    /// Creates the list of nodes of a process that is not registered.
    /// `process` is the random text of the process.
    pub fn new(config: Arc<ClusterConfig>, keys: Keys, process: String) -> Self {
        Self {
            config,
            keys,
            script: Script::new(include_str!("heartbeat.lua")),
            process,
            view: ArcSwapOption::empty(),
            earlier: Mutex::default(),
            registrations: watch::Sender::new(0),
            differing: Mutex::default(),
            unreadable: LogLimit::new(ANSWERS_LOGGED),
        }
    }

    /// Returns the nodes as of the last heartbeat. They may be old if the server is away.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.load_full()
    }

    /// Returns the nodes if this one is not dead: its last heartbeat is not older than `node_timeout`.
    pub fn live(&self, now: Instant) -> Option<Arc<View>> {
        self.view().filter(|view| now.saturating_duration_since(view.sent) < self.config.node_timeout)
    }

    /// Returns the last known number of nodes, at least one. When this node has registered itself again, the others may
    /// have to do so, too, so the number does not fall for some heartbeats.
    pub fn count(&self) -> usize {
        let (earlier, _) = *self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        self.view.load().as_ref().map_or(1, |view| view.nodes.len().max(1)).max(earlier)
    }

    /// Returns the number of nodes that have another secret than this one, or none, as of the last heartbeat.
    pub fn with_other_secret(&self) -> usize {
        self.view().map_or(0, |view| {
            view.nodes.iter().filter(|node| view.own().and_then(|own| own.has_secret_of(node)) == Some(false)).count()
        })
    }

    /// Returns the changes of the id of this node. With another id it holds nothing at the server.
    pub fn registrations(&self) -> watch::Receiver<u64> {
        self.registrations.subscribe()
    }

    /// Sends heartbeats. Never returns.
    pub async fn run(&self, link: &Link, facts: impl Fn() -> NodeFacts) {
        let interval = self.config.node_timeout / HEARTBEATS;
        let mut changes = link.changes();
        loop {
            let state = *changes.borrow_and_update();
            let sent = clock::now();
            if is_up(state) && self.beat(link, &facts(), sent).await.is_err() {
                tracing::debug!("a heartbeat to the cluster's server failed");
            }
            tokio::select! {
                () = sleep_until(clock::after(sent, interval).into()) => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Sends one heartbeat.
    async fn beat(&self, link: &Link, facts: &NodeFacts, sent: Instant) -> Result<(), Unavailable> {
        let before = self.view();
        let id = before.as_ref().map_or(&*self.process, |view| &view.id);
        let text = serde_json::to_string(facts).unwrap_or_default();
        let [seen, said] = self.keys.nodes();
        let mut call = self.script.key(seen);
        call.key(said).arg(id).arg(u8::from(before.is_some())).arg(text).arg(millis(self.config.node_timeout));
        let answer: Vec<Value> = link.script(call.arg(millis(KEPT)).arg(NODES_MAX)).await?;
        let view = View::parse(&answer, sent).ok_or_else(|| {
            if let Some(left_out) = self.unreadable.may_write(clock::now()) {
                tracing::warn!(left_out, "the answer of the cluster's server to a heartbeat cannot be read");
            }
            Unavailable
        })?;
        self.warn_of_differences(&view, facts);
        let is_new = before.as_ref().is_none_or(|before| before.id != view.id);
        self.note_earlier(is_new);
        let (node, nodes) = (Arc::clone(&view.id), view.nodes.len());
        if let Some(before) = &before {
            self.log_changes(before, &view);
        }
        self.view.store(Some(Arc::new(view)));
        if is_new {
            tracing::info!(%node, nodes, "registered as a node of the cluster");
            self.registrations.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }

    /// Keeps the number of nodes as of the heartbeats before this one.
    fn note_earlier(&self, is_new: bool) {
        let count = self.count();
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        *earlier = match *earlier {
            _ if is_new => (count, HEARTBEATS),
            (_, 0) => (0, 0),
            (count, left) => (count, left.saturating_sub(1)),
        };
    }

    /// Logs which other nodes have come, left and died since the view before, and whether the server has lost the list.
    fn log_changes(&self, before: &View, view: &View) {
        let since = view.sent.saturating_duration_since(before.sent);
        if before.id != view.id {
            if since < self.config.node_timeout {
                let server = &self.config.servers;
                tracing::warn!(%server, "the cluster's server has lost the nodes, and may have lost all its data");
            }
            // The others may have to register themselves again, too.
            return;
        }
        let Changes { joined, left, dead } = before.changes_to(view, self.config.node_timeout);
        let total = view.nodes.len();
        if !joined.is_empty() {
            tracing::info!(nodes = names(&joined), total, "other nodes joined the cluster");
        }
        if !left.is_empty() {
            tracing::info!(nodes = names(&left), total, "other nodes left the cluster");
        }
        if !dead.is_empty() {
            tracing::warn!(nodes = names(&dead), total, "other nodes of the cluster are dead: their heartbeats ended");
        }
    }

    /// Removes this node from the list, so that others do not wait for its death. Nothing of it may be used afterwards.
    pub async fn leave(&self, link: &Link) {
        let Some(view) = self.view.swap(None) else { return };
        let [seen, said] = self.keys.nodes();
        let mut commands = redis::pipe();
        commands.zrem(seen, &*view.id).ignore().hdel(said, &*view.id).ignore();
        // Otherwise its heartbeats end.
        let _ = link.pipeline::<()>(&commands).await;
    }

    /// Logs each node whose configuration or secret differs, once for each that it has.
    fn warn_of_differences(&self, view: &View, own: &NodeFacts) {
        let mut logged = self.differing.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|(id, _), _| view.nodes.iter().any(|node| node.id == *id));
        let mut note = |node: &Node, what, differing: Option<&String>| {
            let key = (Arc::clone(&node.id), what);
            let before = logged.remove(&key);
            let Some(digest) = differing else { return false };
            let is_new = before.as_ref() != Some(digest);
            logged.insert(key, digest.clone());
            is_new
        };
        for (node, facts) in view.nodes.iter().filter_map(|node| Some((node, node.facts.as_ref()?))) {
            let (name, address) = (&facts.name, &facts.address);
            if note(node, "config", Some(&facts.config).filter(|config| **config != own.config)) {
                tracing::warn!(node = %node.id, name, address, "the configuration of another node differs");
            }
            let differs = |secret: &&String| own.secret.as_ref().is_some_and(|own| own != *secret);
            if note(node, "secret", facts.secret.as_ref().filter(differs)) {
                tracing::warn!(node = %node.id, name, address, "the secret_file of another node differs");
            }
        }
    }
}

impl View {
    /// Returns this node.
    pub fn own(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == self.id)
    }

    /// Returns the time of the server at an instant, in milliseconds.
    pub fn millis_at(&self, instant: Instant) -> u64 {
        let (before, after) =
            (self.sent.saturating_duration_since(instant), instant.saturating_duration_since(self.sent));
        self.server_millis.saturating_add(millis(after)).saturating_sub(millis(before))
    }

    /// Returns the other nodes that a later view has and this one does not, and those that it does not have any more. One
    /// whose last known heartbeat is `node_timeout` old is dead, and did not leave; nearly so, since times are not exact.
    fn changes_to<'a>(&'a self, later: &'a Self, node_timeout: Duration) -> Changes<'a> {
        let since = later.sent.saturating_duration_since(self.sent);
        let lacks = |view: &Self, node: &Node| view.nodes.iter().all(|known| known.id != node.id);
        let gone = self.nodes.iter().filter(|node| lacks(later, node));
        let silence = node_timeout.saturating_mul(5) / 6;
        let (dead, left) = gone.partition(|node| node.silent.saturating_add(since) >= silence);
        Changes { joined: later.nodes.iter().filter(|node| lacks(self, node)).collect(), left, dead }
    }

    fn parse(answer: &[Value], sent: Instant) -> Option<Self> {
        let (head, nodes) = answer.split_first_chunk::<2>()?;
        let nodes = nodes.chunks_exact(3).map(|node| {
            let [id, silent, facts] = <&[Value; 3]>::try_from(node).ok()?;
            let facts = text(facts).filter(|facts| facts.len() <= FACTS_MAX_BYTES);
            Some(Node {
                id: text(id)?.into(),
                silent: Duration::from_millis(text(silent)?.parse().ok()?),
                facts: facts.and_then(|facts| serde_json::from_str(facts).ok()),
            })
        });
        Some(Self {
            id: text(&head[1])?.into(),
            server_millis: text(&head[0])?.parse().ok()?,
            sent,
            nodes: nodes.take(NODES_MAX).collect::<Option<_>>()?,
        })
    }
}

/// The other nodes that differ between two views.
#[derive(Debug, PartialEq, Eq)]
struct Changes<'a> {
    joined: Vec<&'a Node>,
    left: Vec<&'a Node>,
    dead: Vec<&'a Node>,
}

/// Returns the ids of some nodes with their names and addresses, for a log line.
fn names(nodes: &[&Node]) -> String {
    let name = |node: &&Node| match &node.facts {
        Some(NodeFacts { name, address, .. }) => format!("{} ({name}, {address})", node.id),
        None => node.id.to_string(),
    };
    let mut text = nodes.iter().take(NAMES_MAX).map(name).collect::<Vec<_>>().join(", ");
    if nodes.len() > NAMES_MAX {
        // Writing to a string never fails.
        let _ = write!(text, " and {} more", nodes.len().saturating_sub(NAMES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_answer_lists_the_nodes() {
        let facts = r#"{"name":"a","address":"x","version":"1","config":"c","generation":2,"sessions":3}"#;
        let answer = ["1700", "1700-ab", "1700-ab", "0", facts, "1600-cd", "250", "{}"].map(bulk);
        let now = Instant::now();
        let view = View::parse(&answer, now).unwrap();
        assert_eq!((&*view.id, view.server_millis, view.sent), ("1700-ab", 1700, now));
        let [own, other] = view.nodes.as_slice() else { panic!("{view:?}") };
        assert_eq!(own.facts.as_ref().map(|facts| (&*facts.name, facts.generation, facts.sessions)), Some(("a", 2, 3)));
        assert_eq!((&*other.id, other.silent, &other.facts), ("1600-cd", Duration::from_millis(250), &None));
    }

    #[test]
    fn a_secret_is_the_same_or_differs_or_is_unknown() {
        let node = |secret: &str| {
            let text = r#"{"name":"a","address":"x","version":"1","config":"c","generation":2,"sessions":3SECRET}"#;
            let facts = serde_json::from_str(&text.replace("SECRET", secret)).unwrap();
            Node { id: "1-a".into(), silent: Duration::ZERO, facts: Some(facts) }
        };
        let (one, without, unknown) = (node(r#","secret":"aa""#), node(r#","secret":"""#), node(""));
        for (other, expected) in [(&one, Some(true)), (&without, Some(false)), (&unknown, None)] {
            assert_eq!((one.has_secret_of(other), other.has_secret_of(&one)), (expected, expected), "{other:?}");
        }
    }

    #[test]
    fn a_node_that_is_gone_has_died_if_it_was_silent() {
        let start = Instant::now();
        let view = |after: u64, nodes: &[(&str, u64)]| {
            let node =
                |&(id, silent): &(&str, u64)| Node { id: id.into(), silent: Duration::from_secs(silent), facts: None };
            let sent = start.checked_add(Duration::from_secs(after)).unwrap();
            View { id: "1-a".into(), server_millis: 0, sent, nodes: nodes.iter().map(node).collect() }
        };
        let before = view(0, &[("1-a", 0), ("2-b", 13), ("3-c", 2), ("4-d", 1)]);
        let after = view(5, &[("1-a", 0), ("4-d", 6), ("5-e", 0)]);
        let Changes { joined, left, dead } = before.changes_to(&after, Duration::from_secs(15));
        assert_eq!([joined, left, dead].map(|nodes| names(&nodes)), ["5-e", "3-c", "2-b"]);
        let many: Vec<&Node> = std::iter::repeat_n(&before.nodes[0], NAMES_MAX + 2).collect();
        assert!(names(&many).ends_with("1-a, 1-a and 2 more"), "{}", names(&many));
    }

    #[test]
    fn other_answers_are_refused() {
        let now = Instant::now();
        for answer in [vec![], vec![bulk("1")], vec![bulk("x"), bulk("1-a")], vec![Value::Nil, bulk("1-a")]] {
            assert_eq!(View::parse(&answer, now), None, "{answer:?}");
        }
        assert_eq!(View::parse(&["1", "1-a", "1-a", "x", ""].map(bulk), now), None);
    }
}
