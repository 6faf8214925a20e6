//! Connects to one of several addresses of a name (RFC 8305): the next attempt starts while the last one is pending.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The maximum number of addresses of a name that are tried; further ones are ignored.
pub(super) const ADDRESSES_MAX: usize = 8;
/// The delay before the next attempt starts while one is pending (RFC 8305 section 5 recommends this value).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The maximum number of concurrent attempts of one request. Each has a descriptor, which the descriptor count
/// includes.
pub const ATTEMPTS_AT_ONCE: usize = 2;

/// Returns the order in which addresses are tried: the families alternate, beginning with that of the first address,
/// and each family keeps the resolver's order (RFC 8305 section 4).
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        if address.is_ipv6() == first_is_v6 { own.push(*address) } else { other.push(*address) }
    }
    let (mut own, mut other) = (own.into_iter(), other.into_iter());
    let mut order = Vec::new();
    while order.len() < ADDRESSES_MAX {
        let before = order.len();
        order.extend(own.next());
        order.extend(other.next());
        if order.len() == before {
            break;
        }
    }
    order.truncate(ADDRESSES_MAX);
    order
}

/// The schedule of attempts. Time is an argument.
#[derive(Debug)]
struct Schedule {
    left: std::vec::IntoIter<SocketAddr>,
    under_way: usize,
    /// The earliest time of the next attempt while another one is pending.
    next_at: Instant,
}

impl Schedule {
    fn new(order: Vec<SocketAddr>, now: Instant) -> Self {
        Self { left: order.into_iter(), under_way: 0, next_at: now }
    }

    /// Returns the address of the attempt to start now, if one is due.
    fn start(&mut self, now: Instant) -> Option<SocketAddr> {
        let due = self.under_way == 0 || (self.under_way < ATTEMPTS_AT_ONCE && now >= self.next_at);
        if !due {
            return None;
        }
        let address = self.left.next()?;
        self.under_way += 1;
        self.next_at = now.checked_add(ATTEMPT_DELAY).unwrap_or(now);
        Some(address)
    }

    /// Records that an attempt failed, so that the next one starts at once.
    fn fail(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.next_at = now;
    }

    /// Returns the time at which [`Schedule::start`] returns the next address, unless an attempt fails before.
    fn next_at(&self) -> Option<Instant> {
        let waits = self.left.len() > 0 && self.under_way < ATTEMPTS_AT_ONCE;
        waits.then_some(self.next_at)
    }
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Connects to the first of these addresses that accepts the connection. Each attempt has `connect_timeout`.
///
/// # Errors
/// The error of the last attempt that failed, if all did. Its kind is `TimedOut` if that attempt timed out.
pub async fn connect(
    addresses: &[SocketAddr],
    connect_timeout: Duration,
    clock: fn() -> Instant,
) -> io::Result<TcpStream> {
    if let [address] = addresses {
        return attempt(*address, connect_timeout).await;
    }
    let mut schedule = Schedule::new(interleave(addresses), clock());
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut delay = pin!(sleep(ATTEMPT_DELAY));
    poll_fn(|cx| {
        loop {
            while let Some(address) = schedule.start(clock()) {
                attempts.push(Box::pin(attempt(address, connect_timeout)));
            }
            let before = attempts.len();
            let mut connected = None;
            attempts.retain_mut(|attempt| match attempt.as_mut().poll(cx) {
                Poll::Ready(Ok(stream)) => {
                    connected = Some(stream);
                    false
                }
                Poll::Ready(Err(error)) => {
                    schedule.fail(clock());
                    failed = error;
                    false
                }
                Poll::Pending => true,
            });
            if let Some(stream) = connected {
                return Poll::Ready(Ok(stream));
            }
            if attempts.len() < before {
                continue;
            }
            if attempts.is_empty() {
                let error = std::mem::replace(&mut failed, io::ErrorKind::NotFound.into());
                return Poll::Ready(Err(error));
            }
            let Some(at) = schedule.next_at() else { return Poll::Pending };
            delay.as_mut().reset(at.into());
            if delay.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

async fn attempt(address: SocketAddr, connect_timeout: Duration) -> io::Result<TcpStream> {
    match timeout(connect_timeout, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(no_connection_in_time()),
    }
}

/// Returns the error of a server that does not answer the attempt to connect.
pub(super) fn no_connection_in_time() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "connecting timed out")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    const V6: [&str; 4] = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8::4]:1"];
    const V4: [&str; 4] = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1"];

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate() {
        let cases: &[(&[&str], &[&str])] = &[
            (&[], &[]),
            (&[V4[0]], &[V4[0]]),
            (&[V6[0], V6[1], V4[0], V4[1]], &[V6[0], V4[0], V6[1], V4[1]]),
            (&[V4[0], V4[1], V6[0], V6[1]], &[V4[0], V6[0], V4[1], V6[1]]),
            (&[V6[0], V6[1], V6[2], V4[0]], &[V6[0], V4[0], V6[1], V6[2]]),
            (&[V4[0], V6[0], V4[1], V4[2], V6[1]], &[V4[0], V6[0], V4[1], V6[1], V4[2]]),
            (&[V4[0], V4[1], V4[2]], &[V4[0], V4[1], V4[2]]),
        ];
        for (given, expected) in cases {
            assert_eq!(interleave(&addresses(given)), addresses(expected), "{given:?}");
        }
        // Beyond the limit, both families are kept.
        let many: Vec<SocketAddr> = (1..=40).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
        let many = [addresses(&V6), many].concat();
        let order = interleave(&many);
        assert_eq!(order.len(), ADDRESSES_MAX);
        assert_eq!(order.iter().filter(|address| address.is_ipv6()).count(), 4);
    }

    /// An event or an expectation at a time in milliseconds.
    enum Step {
        Starts(u64, usize),
        Nothing(u64),
        Fails(u64),
        NextAt(Option<u64>),
    }

    #[test]
    fn attempts_start_after_the_delay_or_a_failure() {
        use Step::{Fails, NextAt, Nothing, Starts};
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let tables: &[&[Step]] = &[
            // The addresses do not answer.
            &[Starts(0, 0), Nothing(249), NextAt(Some(250)), Starts(250, 1), NextAt(None), Nothing(5_000)],
            // The first attempt times out.
            &[Starts(0, 0), Starts(250, 1), Fails(2_000), Starts(2_000, 2), NextAt(None)],
            // The connections are refused at once.
            &[Starts(0, 0), Fails(1), Starts(1, 1), Fails(2), Starts(2, 2), Fails(3), Nothing(3), NextAt(None)],
            // A connection is refused while another attempt is pending.
            &[Starts(0, 0), Starts(250, 1), Fails(260), NextAt(Some(260)), Starts(260, 2), Nothing(900)],
        ];
        for (table, steps) in tables.iter().enumerate() {
            let order = addresses(&V4[..3]);
            let mut schedule = Schedule::new(order.clone(), start);
            for step in *steps {
                match step {
                    Starts(ms, which) => assert_eq!(schedule.start(at(*ms)), Some(order[*which]), "{table} at {ms}"),
                    Nothing(ms) => assert_eq!(schedule.start(at(*ms)), None, "{table} at {ms}"),
                    Fails(ms) => schedule.fail(at(*ms)),
                    NextAt(ms) => assert_eq!(schedule.next_at(), ms.map(at), "{table}"),
                }
            }
        }
    }

    /// Returns a listener with a full queue, so that the kernel drops further SYNs, and the sockets that fill the
    /// queue.
    fn swallowing() -> (Socket, Vec<Socket>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = socket.connect_timeout(&address, Duration::from_millis(200));
            waiting.push(socket);
            if connected.is_err() {
                return (listener, waiting, address.as_socket().unwrap());
            }
            assert!(waiting.len() < 16, "the queue is not full");
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// The live address is reached long before the attempts at silent addresses time out, and even if the timeout is
    /// short.
    #[test]
    fn a_silent_address_does_not_block_others() {
        let (_listener, _waiting, silent) = swallowing();
        let live = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let live_address = live.local_addr().unwrap();
        let refused = {
            let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap()
        };
        let hour = Duration::from_secs(3600);
        for (addresses, connect_timeout) in [
            (vec![silent, live_address], hour),
            (vec![silent, refused, live_address], hour),
            (vec![refused, silent, live_address], hour),
            (vec![silent, silent, silent, live_address], Duration::from_millis(50)),
        ] {
            let stream = run(connect(&addresses, connect_timeout, Instant::now)).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), live_address, "{addresses:?}");
        }
        let all_silent = run(connect(&[silent, silent], Duration::from_millis(50), Instant::now));
        assert_eq!(all_silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(run(connect(&[], hour, Instant::now)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
