//! Tests of `relay` with in-memory streams, for conditions that sockets do not produce reliably.

mod commands;
mod early_ends;
mod freezing;
mod slow_client;

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::rc::Rc;

use http::HeaderMap;
use tokio::net::TcpStream;

use super::read::FRAMES_PER_CLOCK;
use super::registry::{Command, SessionContext};
use super::session_task::RelayTask;
use super::*;
use crate::balance::tests::config as pool_config;
use crate::balance::{Balance, Pool, UpstreamLoss};
use crate::policy::address::Addresses;
use crate::policy::admission::{Admission, Policy};
use crate::policy::counters::SharedCounts;
use crate::policy::expiry::Expiry;
use crate::policy::forwarded::{Client, Scheme};
use crate::policy::host::HostPattern;
use crate::policy::limits::{LimitMode, Limits, MessageQuota, OnExcess, OnSessionLimit, OnSlowClient, RateKey};
use crate::policy::origin::{MissingOrigin, Origins};
use crate::policy::quota::{Limiter, Quota, Rate};
use crate::policy::request::RequestFacts;
use crate::policy::rewrite::Rewrite;
use crate::policy::route::{Auth, OnRemoved, Route, RouteConfig, Routes};
use crate::record::{Opener, Sealer, TrafficSecret};
use crate::runtime::guard::LoadGuard;
use crate::runtime::lifecycle::Lifecycle;
use crate::session::{Message, SessionConfig, SessionStats};
use crate::telemetry::events::Events;
use crate::telemetry::identity::Identities;
use crate::telemetry::request::{RequestId, RequestSummary};
use crate::telemetry::sessions::Sessions;
use crate::tls::TlsSummary;
use crate::tls::stream::ClientStream;
use crate::upstream::UpstreamStream;
use crate::ws::code::CloseCode;
use crate::ws::handshake::Opening;

const SHORT: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// The in-memory stream of one side.
struct Peer {
    says: Rc<RefCell<Vec<u8>>>,
    then: Rc<Cell<Then>>,
    was_told_the_end: Rc<Cell<bool>>,
    /// The number of bytes that it accepts.
    accepts: Rc<Cell<usize>>,
    /// The bytes that were written to it.
    received: Rc<RefCell<Vec<u8>>>,
}

/// The behaviour of a side once its bytes have been read.
#[derive(Clone, Copy)]
enum Then {
    IsSilent,
    Ends,
    SaysItAgain,
}

impl Peer {
    fn new(says: Vec<u8>, then: Then) -> Self {
        Self {
            says: Rc::new(RefCell::new(says)),
            then: Rc::new(Cell::new(then)),
            was_told_the_end: Rc::default(),
            accepts: Rc::new(Cell::new(usize::MAX)),
            received: Rc::default(),
        }
    }
}

impl tokio::io::AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut says = self.says.borrow_mut();
        match self.then.get() {
            Then::SaysItAgain => {
                while buf.remaining() >= says.len() {
                    buf.put_slice(&says);
                }
            }
            Then::IsSilent if says.is_empty() => return Poll::Pending,
            Then::IsSilent | Then::Ends => buf.put_slice(&std::mem::take(&mut *says)),
        }
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Peer {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let len = bytes.len().min(self.accepts.get());
        if len < bytes.len() {
            self.accepts.set(self.accepts.get() - len);
        }
        self.received.borrow_mut().extend_from_slice(&bytes[..len]);
        if len == 0 { Poll::Pending } else { Poll::Ready(Ok(len)) }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.was_told_the_end.set(true);
        Poll::Ready(Ok(()))
    }
}

impl Stream for Peer {
    fn written(&self) -> u64 {
        0
    }

    fn holds_back(&self) -> bool {
        false
    }

    fn written_to_kernel(&self, taken: u64) -> u64 {
        taken
    }

    fn socket(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn poll_read_ready(&self, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }

    fn take_key_updates(&mut self) -> u8 {
        0
    }

    fn hibernate(&mut self) {}
}

pub(super) fn limits() -> Limits {
    let rate = Rate { count: NonZeroU32::MIN, period: Duration::from_secs(1) };
    Limits {
        mode: LimitMode::Enforce,
        bytes: None,
        messages: None,
        overhead: Quota { rate, burst: NonZeroU32::MIN },
        message_max_bytes: 1 << 20,
        frame_max_bytes: 1 << 20,
        upstream_message_max_bytes: None,
        sessions_per_subject: None,
        sessions_per_address: None,
        on_session_limit: OnSessionLimit::Refuse,
        idle_timeout: None,
        ping_interval: None,
        upstream_ping_interval: None,
        pong_timeout: Duration::from_secs(1),
        close_timeout: SHORT,
        write_timeout: Duration::from_secs(1),
        on_slow_client: OnSlowClient::Block,
        check_utf8: false,
        max_session_age: None,
        requests: None,
        request_max_bytes: Some(1 << 20),
    }
}

/// Returns the configuration of a session with these limits, without quotas and deadlines of its own.
fn terms(limits: Limits) -> SessionConfig {
    SessionConfig {
        limits: Arc::new(limits),
        messages: None,
        bytes: None,
        expires: None,
        age_jitter: 0,
        loss: UpstreamLoss::default(),
        compressed: false,
        ping_tag: *b"test",
    }
}

/// Returns a relay between the two sides whose token expires soon.
fn relay(client_side: Peer, upstream_side: Peer, now: Instant) -> Relay<Peer, Peer> {
    let expires = Some(Expiry { at: now + SHORT, code: CloseCode::POLICY_VIOLATION });
    relay_with(SessionConfig { expires, ..terms(limits()) }, client_side, upstream_side, now)
}

fn relay_with(terms: SessionConfig, client_side: Peer, upstream_side: Peer, now: Instant) -> Relay<Peer, Peer> {
    relay_in(&SessionContext::default(), terms, client_side, upstream_side, now)
}

/// Admits a request to a route with these limits, which leads to an upstream without servers.
pub(super) fn admitted(limits: Arc<Limits>, now: Instant) -> Admission {
    let config = RouteConfig {
        name: "all".into(),
        host: HostPattern::Any,
        path: "/{*rest}".parse().unwrap(),
        upstream: "chat".into(),
        upstream_host: None,
        auth: Vec::new(),
        origins: Origins::new(None, MissingOrigin::Allow),
        addresses: Addresses::default(),
        require: Vec::new(),
        forward_claims: Vec::new(),
        pass_headers: Vec::new(),
        rewrite: Rewrite::default(),
        refresh_path: None,
        http: false,
        hsts: None,
        bypass_cors_preflight: false,
        server_header: false,
        on_removed: OnRemoved::Drain,
        limits,
    };
    let pool = Arc::new(Pool::new(pool_config(Balance::default(), Vec::new()), now));
    let route = Arc::new(Route { config, auth: Auth::default(), pool });
    let policy = Policy::new(Routes::new(vec![route], false), None, NonZeroU32::MIN, Arc::default());
    let opening = Opening {
        authority: "localhost",
        path: "/",
        query: None,
        key: "",
        protocols: Vec::new(),
        extensions: Vec::new(),
        origin: None,
    };
    let client = Ipv4Addr::LOCALHOST.into();
    let headers = HeaderMap::new();
    let facts = RequestFacts::of_opening(
        &opening,
        &headers,
        Client { address: client, scheme: Scheme::Https, endpoints: None },
        1,
    );
    policy.admit(&facts, clock::both()).unwrap()
}

/// Returns the facts of a session of an admitted request.
pub(super) fn session_facts(admission: &Admission, id: u128, now: Instant) -> Arc<SessionFacts> {
    Arc::new(SessionFacts {
        request_id: RequestId(id),
        route: Arc::clone(admission.route().name()),
        grant: Arc::clone(admission.grant()),
        upstream: Arc::clone(&admission.pool().config().name),
        server: "server".into(),
        summary: RequestSummary::default().keep(),
        tls: Some(TlsSummary::of_test()),
        started: now,
    })
}

/// Returns a relay whose session is registered with a worker.
fn relay_in<C: Stream + 'static, U: Stream + 'static>(
    worker: &SessionContext,
    terms: SessionConfig,
    client_side: C,
    upstream_side: U,
    now: Instant,
) -> Relay<C, U> {
    relay_reporting(EarlyEnds::default(), worker, terms, (client_side, upstream_side), now)
}

fn relay_reporting<C: Stream + 'static, U: Stream + 'static>(
    early_ends: EarlyEnds,
    worker: &SessionContext,
    terms: SessionConfig,
    (client_side, upstream_side): (C, U),
    now: Instant,
) -> Relay<C, U> {
    let admission = admitted(Arc::clone(&terms.limits), now);
    let facts = session_facts(&admission, 1, now);
    let log = crate::telemetry::test_config();
    let process = Arc::new(Process {
        lifecycle: Lifecycle::new(Duration::from_secs(1)),
        sessions: Sessions::new(&log, Identities::new(&log, [0; 32])),
        metrics: Arc::new(Metrics::new(Duration::ZERO)),
        events: Events::new(false),
        early_ends,
    });
    let (client_side, upstream_side) = (Prefixed(client_side, Vec::new()), Prefixed(upstream_side, Vec::new()));
    let connection = LoadGuard::new(&Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let session = worker.register(Arc::clone(&facts), Arc::clone(admission.route()));
    let (target, relayed) = (["all", "echo", "server"].map(Arc::from), Session::new(terms, now));
    let metrics = worker.metrics();
    let metrics = metrics.open_session(metrics.connection(), target, Duration::ZERO, &relayed.counts());
    let guards = RelayGuards { session, connection, metrics };
    Relay::new(admission.into_lease(), relayed, client_side, upstream_side, facts, process, guards)
}

#[test]
fn a_session_that_always_has_bytes_to_read_meets_its_deadlines() {
    let start = clock::now();
    let frame = [&[0x82, 125][..], &[b'x'; 125]].concat();
    let mut relay = relay(Peer::new(Vec::new(), Then::IsSilent), Peer::new(frame, Then::SaysItAgain), start);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    // The token expires, neither side answers the Close, and the upstream keeps sending.
    while relay.lingers_until.is_none() {
        assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
        assert!(clock::now() < start + PATIENCE, "no deadline was handled");
    }
}

/// A poll whose budget is spent ends after a bounded number of frames, whichever sides send them, and the next poll
/// continues there.
#[test]
fn a_poll_with_a_spent_budget_processes_a_bounded_number_of_frames() {
    let start = clock::now();
    let over = start.checked_sub(Duration::from_secs(1)).unwrap();
    let tiny = vec![0x82, 1, b'x'];
    let masked = vec![0x82, 0x81, 0, 0, 0, 0, b'x'];
    for both in [false, true] {
        let client =
            if both { Peer::new(masked.clone(), Then::SaysItAgain) } else { Peer::new(Vec::new(), Then::IsSilent) };
        let mut relay = relay(client, Peer::new(tiny.clone(), Then::SaysItAgain), start);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for polls in 1..=50 {
            assert!(relay.poll_session(&mut cx, over).is_pending());
            let SessionStats { client, upstream, .. } = relay.session.counts();
            let frames_max = (polls * FRAMES_PER_CLOCK) as u64;
            // Each poll processes at least one frame, so that the session makes progress.
            assert!((polls as u64..=frames_max).contains(&upstream.messages), "{polls}: {}", upstream.messages);
            assert!(client.messages <= frames_max && (client.messages > 0) == both, "{polls}: {}", client.messages);
        }
    }
}

fn message(text: &str) -> Message {
    Message::from(text.to_owned())
}

/// Returns a relay between two silent sides, without a deadline.
fn quiet_relay(client_side: Peer, upstream_side: Peer) -> Relay<Peer, Peer> {
    relay_with(terms(limits()), client_side, upstream_side, clock::now())
}

#[test]
fn own_messages_are_sent_between_messages_of_the_upstream() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let (client, upstream) = (Peer::new(Vec::new(), Then::IsSilent), Peer::new(b"\x01\x01a".into(), Then::IsSilent));
    let (received, says) = (Rc::clone(&client.received), Rc::clone(&upstream.says));
    let mut relay = quiet_relay(client, upstream);
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    assert_eq!(relay.session.send(message("one"), clock::now()), Ok(()));
    assert_eq!(relay.session.send(message("two"), clock::now()), Ok(()));
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    assert_eq!(*received.borrow(), b"\x01\x01a");
    *says.borrow_mut() = b"\x80\x01b\x82\x01c".into();
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    assert_eq!(*received.borrow(), b"\x01\x01a\x80\x01b\x81\x03one\x81\x03two\x82\x01c");
}

#[test]
fn own_messages_are_sent_when_a_blocked_client_accepts_bytes_again() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let (client, upstream) = (Peer::new(Vec::new(), Then::IsSilent), Peer::new(Vec::new(), Then::IsSilent));
    let (received, accepts) = (Rc::clone(&client.received), Rc::clone(&client.accepts));
    let mut relay = quiet_relay(client, upstream);
    accepts.set(2);
    for text in ["one", "two", "three"] {
        assert_eq!(relay.session.send(message(text), clock::now()), Ok(()));
        assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
        assert_eq!(*received.borrow(), b"\x81\x03");
    }
    accepts.set(usize::MAX);
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    assert_eq!(*received.borrow(), b"\x81\x03one\x81\x03two\x81\x05three");
}

/// The timer of a session with a delayed message is set to the time at which the rate allows the message.
#[test]
fn a_message_is_delayed_until_the_rate_allows_it() {
    let interval = Duration::from_millis(50);
    let rate = Rate { count: NonZeroU32::new(20).unwrap(), period: Duration::from_secs(1) };
    let quota = Quota { rate, burst: NonZeroU32::MIN };
    let messages = MessageQuota { quota, key: RateKey::Session, on_excess: OnExcess::Delay };
    let terms = SessionConfig {
        messages: Some(Arc::new(Limiter::new(quota))),
        ..terms(Limits { messages: Some(messages), ..limits() })
    };
    let before = clock::now();
    let two = [0x82, 0x80, 0, 0, 0, 0].repeat(2);
    let mut relay = relay_with(terms, Peer::new(two, Then::IsSilent), Peer::new(Vec::new(), Then::IsSilent), before);
    assert!(Pin::new(&mut relay).poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    let timer = &mut relay.guard.timer;
    assert!(!timer.pass(before + Duration::from_millis(49)), "too soon");
    assert!(timer.pass(clock::now() + interval), "too late");
}

#[test]
fn the_server_closes_first() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    // A server that closes at once, and a server that waits for us to close.
    for closes in [true, false] {
        let start = clock::now();
        let client = Peer::new(vec![0x88, 0x80, 0, 0, 0, 0], Then::IsSilent);
        let upstream = Peer::new(vec![0x88, 0], Then::IsSilent);
        let client_told = Rc::clone(&client.was_told_the_end);
        let (then, told) = (Rc::clone(&upstream.then), Rc::clone(&upstream.was_told_the_end));
        let mut relay = relay(client, upstream, start);
        let mut poll_until = |what: &str, done: &dyn Fn() -> bool| {
            while !done() {
                assert!(Pin::new(&mut relay).poll(&mut cx).is_pending(), "{what}: over, although the client is open");
                assert!(clock::now() < start + PATIENCE, "{what}");
            }
            relay.guard.timer.is_set()
        };
        assert!(poll_until("our direction to the client is shut down", &|| client_told.get()));
        if closes {
            assert!(!told.get() || clock::now() >= start + SERVER_CLOSES_FIRST, "we closed first");
            then.set(Then::Ends);
        }
        assert!(poll_until("our direction to the server is shut down, although the client is open", &|| told.get()));
        assert!(closes || clock::now() >= start + SERVER_CLOSES_FIRST, "the server had no time to close first");
    }
}

#[test]
fn the_sizes_of_session_types_are_limited() {
    let sizes = [
        of::<Session>(520),
        of::<TrafficSecret>(49),
        of::<Opener>(120),
        of::<Sealer>(112),
        of::<TcpStream>(24 + DEBUG),
        of::<ClientStream>(352 + DEBUG),
        of::<PeerIo<ClientStream>>(448 + DEBUG),
        of::<PeerIo<UpstreamStream>>(128 + DEBUG),
        // The whole relay. Together with the overhead of its task it must fit into 1,536 bytes, the next size class of
        // the allocator.
        of::<RelayTask>(1336 + 2 * DEBUG),
    ];
    let larger: Vec<_> = sizes.into_iter().filter(|(_, bytes, bytes_max)| bytes > bytes_max).collect();
    assert!(larger.is_empty(), "type, bytes, at most: {larger:#?}");
}

/// With debug assertions, a socket also stores the id of its selector.
const DEBUG: usize = if cfg!(debug_assertions) { 8 } else { 0 };

fn of<T>(bytes_max: usize) -> (&'static str, usize, usize) {
    (std::any::type_name::<T>(), size_of::<T>(), bytes_max)
}
