//! Attackers: clients that send as much as they can, in one of several ways, next to clients whose latency is measured.
//!
//! All attacks follow the rules of WebSocket and TLS. `--attackers` sets their number. They stop on request or after
//! `TIME_MAX`. An attacker whose connection ends opens another one after a pause.

use crate::client::{Conn, MASK, Target};
use crate::net::Epoll;
use crate::records::{DATA, RECORD_MAX, Sealer, Secret};
use crate::{Opts, Res, client_config, payload, say, wait_line, ws};
use rustls::Connection;
use std::io::{self, ErrorKind::WouldBlock, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const TIME_MAX: Duration = Duration::from_secs(120);
/// The pause of a slot before its next connection, unless it only makes requests.
const PAUSE: Duration = Duration::from_millis(20);
/// The timeout for a response, after which the connection counts as ended.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// The number of bytes that are sealed together.
const CHUNK: usize = 64 << 10;
const BULK: usize = 64 << 10;
/// The payload length of the message that is sent in records of one byte.
const LARGE: u64 = 1 << 20;
/// The number of empty records between two records with data.
const EMPTY: usize = 16;
const HEAD: usize = 16 << 10;
/// The longest header line of a request: nginx does not accept longer ones.
const LINE: usize = 7 << 10;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// Messages of one byte, many per record.
    Tiny,
    /// Binary messages of 64 KiB.
    Bulk,
    /// Text messages of 64 KiB, in characters of several bytes.
    Text,
    /// Messages of 1 MiB in records of one byte, with a KeyUpdate before each record.
    Updates { requested: bool },
    /// Messages of one byte, one per record, each record padded to the maximum length.
    Padding,
    /// Messages of one byte, one per record, with empty records in between.
    Empty,
    /// The server sends messages of one byte; the client sends nothing else.
    FromTiny,
    /// The server sends messages of 64 KiB.
    FromBulk,
    /// Upgrades in a row, each with a head full of subprotocols.
    Heads,
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "tiny" => Self::Tiny,
            "bulk" => Self::Bulk,
            "text" => Self::Text,
            "updates" => Self::Updates { requested: false },
            "updates-asked" => Self::Updates { requested: true },
            "padding" => Self::Padding,
            "empty" => Self::Empty,
            "from-tiny" => Self::FromTiny,
            "from-bulk" => Self::FromBulk,
            "heads" => Self::Heads,
            _ => return Err(format!("no such attack: {name}")),
        })
    }
}

impl Kind {
    /// Returns the path: the upstream's sink, unless the attack needs answers.
    fn path(self) -> &'static str {
        match self {
            Self::FromTiny | Self::FromBulk | Self::Heads => "",
            _ => "sink",
        }
    }

    fn is_requests_only(self) -> bool {
        self == Self::Heads
    }
}

/// Counts of the attackers' connections.
#[derive(Default)]
pub struct Attack {
    /// Connections that were upgraded.
    pub upgraded: u64,
    /// Connections that got another response than a 101.
    pub refused: u64,
    /// Connections that the other side ended, before or after the response.
    pub cut: u64,
    /// Bytes of TLS records received after the upgrade.
    pub received: u64,
}

struct Slot {
    state: State,
    secret: Arc<Secret>,
}

enum State {
    Waiting(Instant),
    Opening(Box<Conn>, Instant),
    Firing(Box<Firing>),
}

/// Raises the nice value of the calling thread, so that the measured threads have priority.
pub fn yield_to_others() {
    // On Linux this sets the value of the thread only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Attacks until `over` is set; `ready` counts the slots that have got a first response.
pub fn run(o: &Opts, kind: Kind, ready: &AtomicUsize, over: &AtomicBool) -> Res<Attack> {
    yield_to_others();
    let (target, bodies) = (target(o, kind)?, Bodies::new(kind));
    let (mut ep, mut buf, began) = (Epoll::new()?, vec![0; 64 << 10], Instant::now());
    let mut attack = Attack::default();
    let slot = || Slot {
        state: State::Waiting(began),
        secret: Arc::default(),
    };
    let mut slots: Vec<Slot> = (0..o.attackers).map(|_| slot()).collect();
    let mut first = vec![true; o.attackers];
    let mut nth = 0;
    while !over.load(Ordering::Relaxed) && began.elapsed() < TIME_MAX {
        let now = Instant::now();
        for (id, slot) in slots.iter_mut().enumerate() {
            let due = match &slot.state {
                State::Waiting(at) => *at <= now,
                State::Opening(_, since) => {
                    if now - *since > ANSWER_MAX {
                        attack.cut += 1;
                        slot.state = State::Waiting(now + PAUSE);
                    }
                    false
                }
                State::Firing(_) => false,
            };
            if !due {
                continue;
            }
            let mut config = client_config(o)?;
            slot.secret = Arc::default();
            config.enable_secret_extraction = true;
            config.key_log = slot.secret.clone();
            nth += 1;
            let Ok(mut conn) = target.connect(nth, &Arc::new(config)).map(Conn::new) else {
                slot.state = State::Waiting(now + PAUSE);
                continue;
            };
            ep.add(&conn.stream.tcp, id, true, false)?;
            conn.flush(&ep, id)?;
            slot.state = State::Opening(Box::new(conn), now);
        }
        for i in 0..ep.wait(Some(Duration::from_millis(5)))? {
            let id = ep.get(i).token;
            let slot = &mut slots[id];
            let pause = if kind.is_requests_only() { Duration::ZERO } else { PAUSE };
            let next = match &mut slot.state {
                State::Waiting(_) => continue,
                State::Opening(conn, _) => match conn.recv(&mut buf, &[]).and_then(|_| conn.flush(&ep, id)) {
                    Ok(()) if !conn.upgraded() => continue,
                    Ok(()) => {
                        attack.upgraded += 1;
                        if std::mem::take(&mut first[id]) {
                            ready.fetch_add(1, Ordering::Relaxed);
                        }
                        if kind.is_requests_only() {
                            let _ = conn.stream.close();
                            State::Waiting(Instant::now())
                        } else {
                            let secret = slot.secret.take().ok_or("no TLS 1.3")?;
                            let opened = std::mem::replace(&mut slot.state, State::Waiting(Instant::now()));
                            let State::Opening(conn, _) = opened else { continue };
                            State::Firing(Box::new(Firing::new(conn, secret, kind, &bodies)?))
                        }
                    }
                    Err(e) if e.to_string().starts_with("no upgrade") => {
                        attack.refused += 1;
                        if std::mem::take(&mut first[id]) {
                            ready.fetch_add(1, Ordering::Relaxed);
                        }
                        State::Waiting(Instant::now() + pause)
                    }
                    Err(_) => {
                        attack.cut += 1;
                        State::Waiting(Instant::now() + PAUSE)
                    }
                },
                State::Firing(firing) => {
                    let turned = firing.turn(&mut buf, &bodies);
                    attack.received += std::mem::take(&mut firing.received);
                    if turned.is_ok() {
                        continue;
                    }
                    attack.cut += 1;
                    State::Waiting(Instant::now() + pause)
                }
            };
            if let State::Firing(firing) = &next {
                ep.set(&firing.tcp, id, true, firing.sends())?;
            }
            slot.state = next;
        }
    }
    Ok(attack)
}

/// Returns the target of the attackers: a path below that of the other clients, with additional headers for some kinds.
fn target(o: &Opts, kind: Kind) -> Res<Target> {
    let mut headers = o.headers.clone();
    if kind == Kind::Heads {
        headers.extend(subprotocols(
            HEAD - 600 - headers.iter().map(|h| h.len() + 2).sum::<usize>(),
        ));
    }
    let url = format!("{}{}{}", o.url, kind.path(), o.attack_path);
    Ok(Target::new(&url, &headers)?)
}

/// Returns headers of up to `len` bytes that list distinct subprotocols of one and two characters.
fn subprotocols(len: usize) -> Vec<String> {
    const ABC: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$&'*+-.^_`|~%";
    let one = ABC.iter().map(|&a| vec![a]);
    let two = ABC.iter().flat_map(|&a| ABC.iter().map(move |&b| vec![a, b]));
    let (mut lines, mut total) = (Vec::<String>::new(), 0);
    for name in one.chain(two) {
        let name = String::from_utf8(name).expect("ASCII");
        if total + name.len() + 32 > len {
            break;
        }
        total += name.len() + 1;
        match lines.last_mut() {
            Some(line) if line.len() < LINE => *line += &format!(",{name}"),
            _ => {
                lines.push(format!("Sec-WebSocket-Protocol: {name}"));
                total += 26;
            }
        }
    }
    lines
}

/// The plaintext that is sent repeatedly, and how it is split into records.
struct Bodies {
    data: Vec<u8>,
    records: Vec<std::ops::Range<usize>>,
    padding: usize,
    empty: usize,
}

impl Bodies {
    fn new(kind: Kind) -> Self {
        let tiny = ws::frame(ws::BINARY, b"x", Some(MASK));
        let (data, record_len) = match kind {
            Kind::Tiny => {
                let a_record = tiny.repeat(RECORD_MAX / tiny.len());
                let len = a_record.len();
                (a_record.repeat(CHUNK / len), len)
            }
            Kind::Bulk => (ws::frame(ws::BINARY, &payload(BULK), Some(MASK)), RECORD_MAX),
            Kind::Text => {
                let text = "aé€😀".repeat(BULK / 10);
                (ws::frame(ws::TEXT, text.as_bytes(), Some(MASK)), RECORD_MAX)
            }
            Kind::Padding => (tiny.repeat(4), tiny.len()),
            Kind::Empty => (tiny.repeat(64), tiny.len()),
            Kind::FromTiny => (ws::frame(ws::TEXT, b"flood 1 4000000000", Some(MASK)), RECORD_MAX),
            Kind::FromBulk => (ws::frame(ws::TEXT, b"flood 65536 4000000000", Some(MASK)), RECORD_MAX),
            Kind::Updates { .. } | Kind::Heads => (Vec::new(), 1),
        };
        let records = (0..data.len().div_ceil(record_len))
            .map(|n| n * record_len..((n + 1) * record_len).min(data.len()))
            .collect();
        let padding = if kind == Kind::Padding {
            RECORD_MAX - tiny.len()
        } else {
            0
        };
        let empty = if kind == Kind::Empty { EMPTY } else { 0 };
        Self {
            data,
            records,
            padding,
            empty,
        }
    }
}

/// An upgraded connection whose records are sealed here. Received records are read but not opened.
struct Firing {
    tcp: std::net::TcpStream,
    sealer: Sealer,
    kind: Kind,
    out: Vec<u8>,
    at: usize,
    left: u64, // bytes left of the large message
    received: u64,
}

impl Firing {
    fn new(mut conn: Box<Conn>, secret: [u8; 32], kind: Kind, bodies: &Bodies) -> Res<Self> {
        let Some(Connection::Client(tls)) = conn.stream.tls.take() else {
            return Err("an attack needs wss://".into());
        };
        let sequence = tls.dangerous_extract_secrets()?.tx.0;
        let mut firing = Self {
            tcp: conn.stream.tcp,
            sealer: Sealer::new(secret, sequence),
            kind,
            out: Vec::with_capacity(2 * CHUNK),
            at: 0,
            left: 0,
            received: 0,
        };
        firing.fill(bodies)?;
        if !firing.sends() {
            // Short enough for the send buffer of a new socket.
            firing.tcp.write_all(&firing.out)?;
            firing.at = firing.out.len();
        }
        Ok(firing)
    }

    /// Whether the client sends without end.
    fn sends(&self) -> bool {
        !matches!(self.kind, Kind::FromTiny | Kind::FromBulk)
    }

    /// Makes one read and one write, so that attackers share the thread evenly.
    fn turn(&mut self, buf: &mut [u8], bodies: &Bodies) -> io::Result<()> {
        match self.tcp.read(buf) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.received += n as u64,
            Err(e) if e.kind() == WouldBlock => (),
            Err(e) => return Err(e),
        }
        if self.at == self.out.len() && self.sends() {
            self.fill(bodies)?;
        }
        if self.at < self.out.len() {
            match self.tcp.write(&self.out[self.at..]) {
                Ok(n) => self.at += n,
                Err(e) if e.kind() == WouldBlock => (),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn fill(&mut self, bodies: &Bodies) -> io::Result<()> {
        self.out.clear();
        self.at = 0;
        if let Kind::Updates { requested } = self.kind {
            return self.fill_updates(requested);
        }
        while self.out.len() < CHUNK {
            for range in &bodies.records {
                for _ in 0..bodies.empty {
                    self.sealer.seal(DATA, &[], 0, &mut self.out)?;
                }
                self.sealer
                    .seal(DATA, &bodies.data[range.clone()], bodies.padding, &mut self.out)?;
            }
            if !self.sends() {
                break;
            }
        }
        Ok(())
    }

    fn fill_updates(&mut self, requested: bool) -> io::Result<()> {
        while self.out.len() < CHUNK {
            if self.left == 0 {
                let mut header = Vec::new();
                ws::header(&mut header, ws::BINARY, LARGE, Some(MASK));
                self.sealer.seal(DATA, &header, 0, &mut self.out)?;
                self.left = LARGE;
            }
            self.sealer.update(requested, &mut self.out)?;
            self.sealer.seal(DATA, b"x", 0, &mut self.out)?;
            self.left -= 1;
        }
        Ok(())
    }
}

/// Runs the attack only: prints `ready` when every attacker has got a response, and stops when it reads a line.
pub fn alone(o: &Opts) -> Res<()> {
    let kind = o.attack.parse::<Kind>()?;
    let (ready, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|s| {
        let attack = s.spawn(|| run(o, kind, &ready, &over).map_err(|e| e.to_string()));
        while ready.load(Ordering::Relaxed) < o.attackers && !attack.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let waited = say("ready").and_then(|()| wait_line());
        over.store(true, Ordering::Relaxed);
        let attack = attack.join().expect("the attack panicked")?;
        waited?;
        let Attack {
            upgraded,
            refused,
            cut,
            received,
        } = attack;
        Ok(say(&format!(
            "{{\"upgraded\":{upgraded},\"refused\":{refused},\"attackers_cut\":{cut},\"received\":{received}}}"
        ))?)
    })
}
