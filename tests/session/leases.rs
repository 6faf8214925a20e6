//! Quotas that nodes of a cluster share: messages and bytes beyond a node's share, before and after the store has decided.

use tollgate::policy::counters::{Counters, MessageKey};
use tollgate::policy::lease::driver::LeaseDriver;
use tollgate::policy::lease::share::{Leases, WHOLE};
use tollgate::policy::lease::store::{LeaseAsk, LeaseGrant};
use tollgate::policy::limits::OnExcess;
use tollgate::policy::quota::Count;

use super::*;

/// One of two nodes, whose share without a lease is a tenth.
struct Node {
    counters: Counters,
    driver: LeaseDriver,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        let (leases, now) = (Arc::new(Leases::new()), Instant::now());
        let mut driver = LeaseDriver::new(Arc::clone(&leases));
        driver.set_nodes(2);
        driver.set_reachable(true);
        Self { counters: Counters::of_node(leases), driver, now }
    }

    fn key() -> MessageKey {
        MessageKey::of_identity("users", "ann")
    }

    /// Returns a session with a quota of 10 messages per second and a burst of 20.
    fn messages(&self, on_excess: OnExcess) -> Relay {
        let count = self.counters.route(&Arc::from("chat")).messages.get(&Self::key(), self.now);
        let limiter = Arc::new(Limiter::over(count, quota(10, 20)));
        Relay::new(Setup { messages: Some(limiter), ..lenient().rate(10, 20, on_excess) }, self.now)
    }

    /// Returns a session with a quota of 1,000 bytes per second and a burst of 1,000 in each direction.
    fn bytes(&self, on_excess: OnExcess) -> Relay {
        let counts = self.counters.route(&Arc::from("chat"));
        let counts: [Arc<Count>; 2] = counts.bytes.each_ref().map(|bytes| bytes.get(&Self::key(), self.now));
        Relay::with_bytes(lenient().byte_rate(1_000, 1_000, on_excess), counts, self.now)
    }

    /// Returns the only ask.
    fn ask(&mut self, now: Instant) -> LeaseAsk {
        let mut asks = self.driver.tick(now);
        assert_eq!(asks.len(), 1, "{asks:?}");
        asks.remove(0)
    }

    fn answer(&mut self, ask: &LeaseAsk, share: u32, now: Instant) {
        let valid_for = Duration::from_secs(2);
        let grant = LeaseGrant { share, is_final: true, valid_for, ..LeaseGrant::default() };
        self.driver.answered(&ask.key, ask.sequence, &grant, now);
    }
}

fn messages(count: usize) -> Vec<Event> {
    vec![text(Client, "x"); count]
}

fn apply_all(relay: &mut Relay, events: &[Event]) {
    events.iter().for_each(|event| apply(relay, event));
}

#[test]
fn a_message_beyond_the_share_waits_for_the_lease_and_the_session_is_not_closed() {
    for on_excess in [Close, Drop, Delay] {
        let mut node = Node::new();
        let mut relay = node.messages(on_excess);
        apply_all(&mut relay, &messages(10));
        let passed = relay.frames(Upstream).len();
        assert_eq!(passed, 2, "{on_excess:?}: a tenth of the burst");
        assert!(relay.session.waiting(Client) && relay.outcome.is_none(), "{on_excess:?}");
        let ask = node.ask(relay.now);
        node.answer(&ask, WHOLE, relay.now);
        relay.pass(Duration::from_millis(150));
        assert_eq!(relay.frames(Upstream).len(), 10, "{on_excess:?}");
        assert!(relay.outcome.is_none() && !relay.session.waiting(Client), "{on_excess:?}");
        assert_eq!(relay.session.counts().throttled, 1, "{on_excess:?}: the message that waited");
    }
}

#[test]
fn a_message_beyond_the_lease_waits_until_the_whole_quota_decides() {
    for (on_excess, is_closed) in [(Close, true), (Drop, false)] {
        let mut node = Node::new();
        let mut relay = node.messages(on_excess);
        apply_all(&mut relay, &messages(3));
        let ask = node.ask(relay.now);
        // Other nodes use the rest of the quota.
        node.answer(&ask, 500_000, relay.now);
        relay.pass(Duration::from_millis(150));
        apply_all(&mut relay, &messages(30));
        let passed = relay.frames(Upstream).len();
        assert!((8..=11).contains(&passed), "{on_excess:?}: {passed} of half of the burst");
        assert!(relay.session.waiting(Client) && relay.outcome.is_none(), "{on_excess:?}");
        // They leave it.
        relay.pass(Duration::from_millis(1_000));
        let ask = node.ask(relay.now);
        node.answer(&ask, WHOLE, relay.now);
        relay.pass(Duration::from_millis(900));
        assert_eq!(relay.frames(Upstream).len(), 33, "{on_excess:?}");
        // Now the whole quota decides, but cells that waited for it may be more than a burst.
        for _ in 0..40 {
            for ask in node.driver.tick(relay.now) {
                node.answer(&ask, WHOLE, relay.now);
            }
            apply_all(&mut relay, &messages(3));
            relay.pass(Duration::from_millis(100));
        }
        assert_eq!(relay.outcome.is_some() || relay.session.is_closing(), is_closed, "{on_excess:?}");
        let passed = relay.frames(Upstream).iter().filter(|frame| frame.opcode != CLOSE).count();
        assert!((34..=33 + 40 + 20).contains(&passed), "{on_excess:?}: {passed} of the whole quota");
        assert!(!relay.session.waiting(Client), "{on_excess:?}");
    }
}

#[test]
fn without_a_greater_share_the_route_says_after_ten_seconds() {
    let node = Node::new();
    let mut relay = node.messages(Close);
    // A client that sends more than a tenth of the rate.
    let mut sent = 0;
    while !relay.session.is_closing() && sent < 200 {
        apply_all(&mut relay, &messages(1));
        relay.pass(Duration::from_millis(100));
        sent += 1;
    }
    let waited = relay.now - node.now;
    assert!((Duration::from_millis(9_900)..Duration::from_millis(12_000)).contains(&waited), "{waited:?}");
}

#[test]
fn limits_that_are_reported_report_nothing_that_a_lease_would_allow() {
    let mut node = Node::new();
    let count = node.counters.route(&Arc::from("chat")).messages.get(&Node::key(), node.now);
    let limiter = Arc::new(Limiter::over(count, quota(10, 20)));
    let mut relay =
        Relay::new(Setup { messages: Some(limiter), ..lenient().rate(10, 20, Close).reporting() }, node.now);
    apply_all(&mut relay, &messages(10));
    assert_eq!((relay.frames(Upstream).len(), relay.session.reported().count()), (10, 0));
    let ask = node.ask(relay.now);
    node.answer(&ask, WHOLE, relay.now);
    apply_all(&mut relay, &messages(40));
    assert_eq!((relay.frames(Upstream).len(), relay.session.reported().count()), (50, 1));
}

#[test]
fn a_frame_beyond_the_share_of_bytes_waits_for_the_lease() {
    for side in Side::BOTH {
        let mut node = Node::new();
        let mut relay = node.bytes(Close);
        let frame = from(side, FIN | BINARY, vec![b'x'; 90]);
        apply_all(&mut relay, &vec![frame.clone(); 4]);
        assert_eq!(relay.frames(side.other()).len(), 1, "{side:?}: a tenth of the burst");
        assert!(relay.session.waiting(side) && relay.outcome.is_none(), "{side:?}");
        let ask = node.ask(relay.now);
        node.answer(&ask, WHOLE, relay.now);
        relay.pass(Duration::from_millis(150));
        assert_eq!(relay.frames(side.other()).len(), 4, "{side:?}");
        assert_eq!(relay.session.counts().throttled, 1, "{side:?}");
        // Now the whole quota decides.
        apply_all(&mut relay, &vec![frame; 12]);
        assert!(relay.session.is_closing(), "{side:?}");
    }
}

#[test]
fn sessions_with_a_quota_of_their_own_use_it_alone() {
    let mut node = Node::new();
    let mut relay = Relay::new(lenient().rate(10, 20, Close), node.now);
    apply_all(&mut relay, &messages(20));
    assert_eq!(relay.frames(Upstream).len(), 20);
    apply_all(&mut relay, &messages(1));
    assert!(relay.session.is_closing() && node.driver.tick(relay.now).is_empty());
}
