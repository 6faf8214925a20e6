//! One server of an upstream: its addresses, and whether it failed lately.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::{UnixStream, lookup_host};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::race;
use super::stream::UpstreamStream;
use crate::config::ServerAddress;

/// How long a server that took no connection is passed over while others are there. Then one request tries it again.
pub(super) const SKIP_FOR: Duration = Duration::from_secs(5);
/// How long the addresses of a name are used again. The system's resolver gives no time to live; this spares it a
/// look-up for each session, and follows a change within the time that a restart of a server takes.
const RESOLVED_FOR: Duration = Duration::from_secs(1);
/// How long a Unix socket whose queue is full is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// How many addresses of a look-up are kept; those that are tried are fewer, of both families.
const LOOK_UP_MAX: usize = 64;

/// A server.
#[derive(Debug)]
pub struct Server {
    /// Its address, as the configuration has it.
    pub name: Arc<str>,
    address: ServerAddress,
    names: Mutex<Names>,
    known: Known,
    preferred: Preferred,
    pub(super) health: Health,
}

impl Server {
    /// Nothing is known of it.
    pub(super) fn new(address: ServerAddress) -> Self {
        let name = address.to_string().into();
        Self {
            name,
            address,
            names: Mutex::default(),
            known: Known::default(),
            preferred: Preferred::default(),
            health: Health::default(),
        }
    }

    /// Whether its addresses come from the resolver, so that there may be several.
    pub(super) fn has_name(address: &ServerAddress) -> bool {
        matches!(address, ServerAddress::Tcp { host, .. } if host.parse::<IpAddr>().is_err())
    }

    /// Connects to it. The look-up of its name and the attempt to connect to each of its addresses have `connect_timeout`.
    pub(super) async fn connect(
        &self,
        connect_timeout: Duration,
        clock: fn() -> Instant,
    ) -> io::Result<UpstreamStream> {
        let (host, port) = match &self.address {
            ServerAddress::Tcp { host, port } => (host.as_str(), *port),
            ServerAddress::Unix(path) => {
                let connected = timeout(connect_timeout, connect_unix(path)).await;
                return connected.map_err(|_| race::no_connection_in_time())?.map(UpstreamStream::Unix);
            }
        };
        let stream = if let Ok(ip) = host.parse::<IpAddr>() {
            race::connect(&[SocketAddr::new(ip, port)], connect_timeout, clock).await?
        } else {
            // Half of the time is left for addresses that are known from before.
            let found = timeout(connect_timeout / 2, self.look_up(host, port, clock)).await;
            let found = found.unwrap_or_else(|_| Err(look_up_timeout()));
            let mut addresses = self.known.found_or_before(found)?;
            self.preferred.apply(&mut addresses, clock());
            let stream = race::connect(&addresses, connect_timeout, clock).await?;
            self.preferred.note(&addresses, stream.peer_addr().ok(), clock());
            stream
        };
        // Frames are written whole, so there is nothing to wait for.
        stream.set_nodelay(true)?;
        Ok(UpstreamStream::Tcp(stream))
    }

    /// The addresses of a name. All requests share one look-up: it goes on for the next request when the one that began it
    /// runs out of time, so that a resolver that does not answer blocks one thread for each name and not one for each request.
    async fn look_up(&self, host: &str, port: u16, clock: fn() -> Instant) -> io::Result<Vec<SocketAddr>> {
        let mut names = self.names.lock().await;
        if let Some((since, addresses)) = &names.resolved
            && clock().saturating_duration_since(*since) < RESOLVED_FOR
        {
            return addresses.clone().map_err(io::Error::other);
        }
        // One that ended while nothing waited for it may be as old as its beginning.
        if let Some((began, looking)) = &mut names.looking
            && clock().saturating_duration_since(*began) >= RESOLVED_FOR
            && poll_fn(|cx| Poll::Ready(looking.as_mut().poll(cx).is_ready())).await
        {
            names.looking = None;
        }
        let (_, looking) = names.looking.get_or_insert_with(|| {
            let host = host.to_owned();
            let looking = async move {
                let found = lookup_host((host.as_str(), port)).await?;
                Ok(found.take(LOOK_UP_MAX).collect())
            };
            (clock(), Box::pin(looking))
        });
        let found = looking.as_mut().await;
        names.looking = None;
        names.resolved = Some((clock(), found.as_ref().map(Vec::clone).map_err(ToString::to_string)));
        found
    }
}

type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// What is known of a name.
#[derive(Default)]
struct Names {
    resolved: Option<(Instant, Result<Vec<SocketAddr>, String>)>,
    /// The look-up that goes on, and since when.
    looking: Option<(Instant, Looking)>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("resolved", &self.resolved).finish_non_exhaustive()
    }
}

/// The addresses of the last look-up that found some. They serve while the resolver does not answer or fails.
#[derive(Debug, Default)]
struct Known(std::sync::Mutex<Vec<SocketAddr>>);

impl Known {
    /// What a look-up found, or else what one found before.
    fn found_or_before(&self, found: io::Result<Vec<SocketAddr>>) -> io::Result<Vec<SocketAddr>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(found) => {
                known.clone_from(&found);
                Ok(found)
            }
            Err(_) if !known.is_empty() => Ok(known.clone()),
            Err(error) => Err(error),
        }
    }
}

/// Connects to a Unix socket. While its queue is full the kernel says so at once, and it is asked again.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL_PAUSE).await,
            connected => return connected,
        }
    }
}

/// Whether an error of connecting says something of this machine and nothing of the server.
pub(super) fn is_local(error: &io::Error) -> bool {
    let local = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.iter().any(|errno| errno.raw_os_error() == code))
        || matches!(error.get_ref(), Some(inner) if inner.is::<LookUpTimeout>())
}

fn look_up_timeout() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, LookUpTimeout)
}

/// The resolver gave no answer in time.
#[derive(Debug)]
struct LookUpTimeout;

impl fmt::Display for LookUpTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the look-up of its name took too long")
    }
}

impl std::error::Error for LookUpTimeout {}

/// The address of a name that took a connection when the first one did not, and since when it comes first. So a dead address
/// costs one request in [`SKIP_FOR`] the wait for it.
#[derive(Debug, Default)]
struct Preferred(std::sync::Mutex<Option<(SocketAddr, Instant)>>);

impl Preferred {
    /// Moves it to the front if it still holds.
    fn apply(&self, addresses: &mut [SocketAddr], now: Instant) {
        let preferred = self.lock().filter(|(_, since)| now.saturating_duration_since(*since) < SKIP_FOR);
        if let Some((preferred, _)) = preferred {
            addresses.sort_by_key(|address| *address != preferred);
        }
    }

    /// Notes which of the addresses took the connection.
    fn note(&self, addresses: &[SocketAddr], connected: Option<SocketAddr>, now: Instant) {
        if let Some(connected) = connected
            && addresses.first() != Some(&connected)
        {
            *self.lock() = Some((connected, now));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(SocketAddr, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a server failed lately.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Until when it is passed over, in milliseconds of the pool's clock; 0: it is not.
    skip_until_ms: AtomicU64,
    /// Its last failure was logged, and no recovery since.
    failing: AtomicBool,
    /// Requests that it failed since.
    failures: AtomicU64,
}

impl Health {
    /// Whether to try it now. Of those that come after it was passed over for a while one gets to try; the others pass it
    /// over until that one has an answer.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        let until = self.skip_until_ms.load(Ordering::Relaxed);
        until == 0
            || (now_ms >= until
                && self
                    .skip_until_ms
                    .compare_exchange(until, skip_until(now_ms), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok())
    }

    /// It took no connection.
    pub(super) fn skip(&self, now_ms: u64) {
        self.skip_until_ms.store(skip_until(now_ms), Ordering::Relaxed);
    }

    /// It took one.
    pub(super) fn connected(&self) {
        self.skip_until_ms.store(0, Ordering::Relaxed);
    }

    /// It failed a request. True if that is news, and `may_log` allows a line.
    pub(super) fn fail(&self, may_log: impl FnOnce() -> bool) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        // Without a line it stays unsaid, so that the next failure is news, too.
        !self.failing.load(Ordering::Relaxed) && may_log() && !self.failing.swap(true, Ordering::Relaxed)
    }

    /// It answered a request. The number of those that it failed, if that is news, and `may_log` allows a line.
    pub(super) fn recover(&self, may_log: impl FnOnce() -> bool) -> Option<u64> {
        let news = self.failing.load(Ordering::Relaxed) && may_log() && self.failing.swap(false, Ordering::Relaxed);
        news.then(|| self.failures.swap(0, Ordering::Relaxed))
    }
}

fn skip_until(now_ms: u64) -> u64 {
    let skip_ms = u64::try_from(SKIP_FOR.as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_add(skip_ms).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look-up that takes longer than the request that began it goes on for the next one.
    #[test]
    fn a_look_up_outlasts_its_request() {
        use std::task::{Context, Poll, Waker};
        let server = Server::new(ServerAddress::Tcp { host: "backend.internal".to_owned(), port: 1 });
        let (answer, answered) = tokio::sync::oneshot::channel();
        let looking: Looking = Box::pin(async move { answered.await.map_err(io::Error::other) });
        server.names.try_lock().unwrap().looking = Some((Instant::now(), looking));
        let poll = || {
            let mut look_up = std::pin::pin!(server.look_up("backend.internal", 1, Instant::now));
            look_up.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        // Each of these is dropped, as at its timeout.
        assert!(poll().is_pending() && poll().is_pending());
        let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 1))];
        answer.send(addresses.clone()).unwrap();
        assert!(matches!(poll(), Poll::Ready(Ok(found)) if found == addresses));
        assert!(server.names.try_lock().unwrap().looking.is_none());
        assert!(matches!(poll(), Poll::Ready(Ok(found)) if found == addresses), "used again");
    }

    #[test]
    fn a_look_up_that_ended_unheard_is_not_used_later() {
        use std::task::{Context, Waker};
        let server = Server::new(ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: 1 });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let old = vec![SocketAddr::from(([192, 0, 2, 1], 1))];
        let ended = old.clone();
        let began = Instant::now();
        server.names.try_lock().unwrap().looking = Some((began, Box::pin(async move { Ok(ended) })));
        let mut look_up = std::pin::pin!(server.look_up("127.0.0.1", 1, || Instant::now() + RESOLVED_FOR));
        let polled = look_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // The resolver is asked again; an address needs none.
        assert!(!matches!(polled, Poll::Ready(Ok(ref found)) if *found == old), "{polled:?}");
    }

    #[test]
    fn known_addresses_serve_while_the_resolver_does_not() {
        let known = Known::default();
        let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 1))];
        assert!(known.found_or_before(Err(look_up_timeout())).is_err());
        assert_eq!(known.found_or_before(Ok(addresses.clone())).unwrap(), addresses);
        assert_eq!(known.found_or_before(Err(look_up_timeout())).unwrap(), addresses);
        assert!(known.found_or_before(Ok(Vec::new())).unwrap().is_empty());
    }

    #[test]
    fn errors_of_this_machine_are_not_the_servers() {
        for local in [Errno::MFILE, Errno::ADDRNOTAVAIL] {
            assert!(is_local(&io::Error::from(local)), "{local}");
        }
        assert!(is_local(&look_up_timeout()));
        for remote in [Errno::CONNREFUSED, Errno::HOSTUNREACH] {
            assert!(!is_local(&io::Error::from(remote)), "{remote}");
        }
        assert!(!is_local(&race::no_connection_in_time()));
    }

    #[test]
    fn the_address_that_took_the_connection_comes_first_for_a_while() {
        let preferred = Preferred::default();
        let order: Vec<SocketAddr> = (1..=3).map(|last| SocketAddr::from(([192, 0, 2, last], 1))).collect();
        let start = Instant::now();
        let applied = |now| {
            let mut addresses = order.clone();
            preferred.apply(&mut addresses, now);
            addresses
        };
        preferred.note(&order, Some(order[0]), start);
        assert_eq!(applied(start), order, "the first one is as good as ever");
        preferred.note(&order, Some(order[1]), start);
        assert_eq!(applied(start), [order[1], order[0], order[2]]);
        // That it comes first now does not make it last longer.
        preferred.note(&applied(start), Some(order[1]), start + SKIP_FOR / 2);
        assert_eq!(applied(start + SKIP_FOR), order);
    }

    #[test]
    fn a_server_that_failed_is_tried_again_by_one_request() {
        let health = Health::default();
        let skip_ms = u64::try_from(SKIP_FOR.as_millis()).unwrap();
        assert!(health.is_due(0) && health.is_due(0), "nothing is known of it");
        health.skip(1_000);
        for now in [1_000, 1_000 + skip_ms - 1] {
            assert!(!health.is_due(now), "{now}");
        }
        let again = 1_000 + skip_ms;
        assert!(health.is_due(again), "one tries it");
        assert!(!health.is_due(again), "the others wait for that");
        // The one that tried it never came back.
        assert!(health.is_due(again + skip_ms) && !health.is_due(again + skip_ms));
        health.connected();
        assert!(health.is_due(again + skip_ms) && health.is_due(again + skip_ms));
    }

    #[test]
    fn changes_are_news_once() {
        let health = Health::default();
        assert_eq!(health.recover(|| true), None, "it never failed");
        assert!(!health.fail(|| false), "no line is allowed");
        assert!(health.fail(|| true) && !health.fail(|| true) && !health.fail(|| true));
        assert_eq!(health.recover(|| false), None);
        assert_eq!(health.recover(|| true), Some(4));
        assert_eq!(health.recover(|| true), None);
        assert!(health.fail(|| true));
        assert_eq!(health.recover(|| true), Some(1));
    }
}
