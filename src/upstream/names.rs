//! Servers with a name: their addresses, kept over failures of the resolver, and the address that is tried first.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::race;
use super::resolver::{FoundAddresses, Resolver};
use crate::balance::health::SKIP_FOR;

/// The time for which the addresses of a name are used again without asking the resolver, which has a thread of its
/// own. It keeps an answer until its TTL ends. A change of the hosts file takes effect within this time.
const RESOLVED_FOR: Duration = Duration::from_secs(1);
/// The maximum number of addresses of one family that are kept. Fewer are tried, of both families.
const LOOK_UP_MAX: usize = 32;

/// The names of all servers, each with a port.
#[derive(Debug, Default)]
pub(super) struct Names(std::sync::Mutex<HashMap<Arc<str>, Arc<Name>>>);

impl Names {
    /// Returns the state of a server's name. There are at most as many as the configuration has servers.
    pub(super) fn get(&self, server: &Arc<str>) -> Arc<Name> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(names.entry(Arc::clone(server)).or_default())
    }

    /// Drops the state of servers for which `keep` returns false.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|server, _| keep(server));
    }
}

/// The state of one name.
#[derive(Debug, Default)]
pub(super) struct Name {
    lookups: Mutex<Lookups>,
    known: Known,
    preferred: Preferred,
}

impl Name {
    /// Connects to one of its addresses. The look-up has half of `connect_timeout`, so that time is left for addresses
    /// that are known from earlier look-ups; each attempt to connect has `connect_timeout`.
    ///
    /// # Errors
    /// If no address is known or none accepts the connection in time.
    pub(super) async fn connect(
        &self,
        resolver: &Resolver,
        (host, port): (&str, u16),
        connect_timeout: Duration,
        clock: fn() -> Instant,
    ) -> io::Result<TcpStream> {
        let found = timeout(connect_timeout / 2, self.look_up(resolver, (host, port), clock)).await;
        let found = found.unwrap_or_else(|_| Err(look_up_timeout()));
        let mut addresses = self.known.found_or_before(found)?;
        self.preferred.apply(&mut addresses, clock());
        let stream = race::connect(&addresses, connect_timeout, clock).await?;
        self.preferred.note(&addresses, stream.peer_addr().ok(), clock());
        Ok(stream)
    }

    /// Returns the addresses. All requests share one look-up: it continues for the next request when the request that
    /// started it times out. So a name server that does not answer is asked once per name and not once per request.
    async fn look_up(
        &self,
        resolver: &Resolver,
        (host, port): (&str, u16),
        clock: fn() -> Instant,
    ) -> io::Result<Vec<SocketAddr>> {
        let mut lookups = self.lookups.lock().await;
        if let Some((since, addresses)) = &lookups.resolved
            && clock().saturating_duration_since(*since) < RESOLVED_FOR
        {
            return addresses.clone().map_err(io::Error::other);
        }
        // A look-up that ended while no request waited for it may be as old as its start.
        if let Some((began, looking)) = &mut lookups.looking
            && clock().saturating_duration_since(*began) >= RESOLVED_FOR
            && poll_fn(|cx| Poll::Ready(looking.as_mut().poll(cx).is_ready())).await
        {
            lookups.looking = None;
        }
        let (_, looking) = lookups.looking.get_or_insert_with(|| {
            let (resolver, host) = (resolver.clone(), host.to_owned());
            let looking = async move { socket_addresses(resolver.addresses(&host).await, port) };
            (clock(), Box::pin(looking))
        });
        let found = looking.as_mut().await;
        lookups.looking = None;
        lookups.resolved = Some((clock(), found.as_ref().map(Vec::clone).map_err(ToString::to_string)));
        found
    }
}

/// Returns the addresses with this port, those of IPv6 first. One family is enough.
fn socket_addresses(found: FoundAddresses, port: u16) -> io::Result<Vec<SocketAddr>> {
    let [v4, v6] = found;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut failed = None;
    for found in [v6, v4] {
        match found {
            Ok(found) => {
                let addresses_of = found.records.into_iter().take(LOOK_UP_MAX);
                addresses.extend(addresses_of.map(|ip| SocketAddr::new(ip, port)));
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if addresses.is_empty() => Err(io::Error::other(error)),
        _ => Ok(addresses),
    }
}

type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The look-ups of a name.
#[derive(Default)]
struct Lookups {
    resolved: Option<(Instant, Result<Vec<SocketAddr>, String>)>,
    /// The look-up in progress, and when it started.
    looking: Option<(Instant, Looking)>,
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("resolved", &self.resolved).finish_non_exhaustive()
    }
}

/// The addresses of the last look-up that found any. They are used while the resolver fails or does not answer.
#[derive(Debug, Default)]
struct Known(std::sync::Mutex<Vec<SocketAddr>>);

impl Known {
    /// Returns the addresses that a look-up found, or else those of an earlier look-up.
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

pub(super) fn look_up_timeout() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, LookUpTimeout)
}

/// The resolver did not answer in time.
#[derive(Debug)]
pub(super) struct LookUpTimeout;

impl fmt::Display for LookUpTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the look-up of its name took too long")
    }
}

impl std::error::Error for LookUpTimeout {}

/// The address that accepted a connection when the first one did not, and since when it is tried first. So a dead
/// address delays one request per [`SKIP_FOR`].
#[derive(Debug, Default)]
struct Preferred(std::sync::Mutex<Option<(SocketAddr, Instant)>>);

impl Preferred {
    /// Moves the preferred address to the front if it is recent.
    fn apply(&self, addresses: &mut [SocketAddr], now: Instant) {
        let preferred = self.lock().filter(|(_, since)| now.saturating_duration_since(*since) < SKIP_FOR);
        if let Some((preferred, _)) = preferred {
            addresses.sort_by_key(|address| *address != preferred);
        }
    }

    /// Records which of the addresses accepted the connection.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A look-up that takes longer than the request that began it continues for the next one.
    #[test]
    fn a_look_up_outlasts_its_request() {
        use std::task::{Context, Poll, Waker};
        let name = Name::default();
        let (resolver, (answer, answered)) = (Resolver::new(Instant::now), tokio::sync::oneshot::channel());
        let looking: Looking = Box::pin(async move { answered.await.map_err(io::Error::other) });
        name.lookups.try_lock().unwrap().looking = Some((Instant::now(), looking));
        let poll = || {
            let mut look_up = std::pin::pin!(name.look_up(&resolver, ("backend.internal", 1), Instant::now));
            look_up.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        // Each of these is dropped, as at its timeout.
        assert!(poll().is_pending() && poll().is_pending());
        let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 1))];
        answer.send(addresses.clone()).unwrap();
        assert!(matches!(poll(), Poll::Ready(Ok(found)) if found == addresses));
        assert!(name.lookups.try_lock().unwrap().looking.is_none());
        assert!(matches!(poll(), Poll::Ready(Ok(found)) if found == addresses), "the result is used again");
    }

    #[test]
    fn a_look_up_that_ended_while_no_request_waited_is_not_used_later() {
        use std::task::{Context, Waker};
        let name = Name::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let old = vec![SocketAddr::from(([192, 0, 2, 1], 1))];
        let ended = old.clone();
        let began = Instant::now();
        name.lookups.try_lock().unwrap().looking = Some((began, Box::pin(async move { Ok(ended) })));
        let resolver = Resolver::new(Instant::now);
        let later = || Instant::now() + RESOLVED_FOR;
        let mut look_up = std::pin::pin!(name.look_up(&resolver, ("nothing.invalid", 1), later));
        let polled = look_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // The name is looked up again.
        assert!(!matches!(polled, Poll::Ready(Ok(ref found)) if *found == old), "{polled:?}");
    }

    #[test]
    fn known_addresses_are_used_while_the_resolver_fails() {
        let known = Known::default();
        let addresses = vec![SocketAddr::from(([192, 0, 2, 1], 1))];
        assert!(known.found_or_before(Err(look_up_timeout())).is_err());
        assert_eq!(known.found_or_before(Ok(addresses.clone())).unwrap(), addresses);
        assert_eq!(known.found_or_before(Err(look_up_timeout())).unwrap(), addresses);
        assert!(known.found_or_before(Ok(Vec::new())).unwrap().is_empty());
    }

    #[test]
    fn the_address_that_accepted_the_connection_is_tried_first_for_a_while() {
        let preferred = Preferred::default();
        let order: Vec<SocketAddr> = (1..=3).map(|last| SocketAddr::from(([192, 0, 2, last], 1))).collect();
        let start = Instant::now();
        let applied = |now| {
            let mut addresses = order.clone();
            preferred.apply(&mut addresses, now);
            addresses
        };
        preferred.note(&order, Some(order[0]), start);
        assert_eq!(applied(start), order, "the first address stays first");
        preferred.note(&order, Some(order[1]), start);
        assert_eq!(applied(start), [order[1], order[0], order[2]]);
        // A connection to an address that comes first already does not prolong its preference.
        preferred.note(&applied(start), Some(order[1]), start + SKIP_FOR / 2);
        assert_eq!(applied(start + SKIP_FOR), order);
    }
}
