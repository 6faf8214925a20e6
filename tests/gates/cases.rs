//! The work of the pure core and the record layer for each message, as cases whose repeated runs are counted.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tollgate::policy::limits::OnExcess;
use tollgate::record::{Content, ContentType, Opened, Opener, Sealer, Suite, TrafficSecret};
use tollgate::session::{Session, Side, Verdict};

use super::harness::relay::{Relay, Setup};
use super::harness::wire::{BINARY, FIN, PING, TEXT, frame};

/// The maximum number of runs of a case.
pub const RUNS_MAX: usize = 64;

/// A prepared case, which can be run [`RUNS_MAX`] times.
pub type Run = Box<dyn FnMut()>;

/// The cases: the name in `ceilings.toml`, and the function that prepares it.
pub const CASES: [(&str, fn() -> Run); 11] = [
    ("client_binary_64", || receive(Side::Client, FIN | BINARY, 64, 1)),
    ("client_text_64", || receive(Side::Client, FIN | TEXT, 64, 1)),
    ("client_binary_16k", || receive(Side::Client, FIN | BINARY, 16 << 10, 1)),
    ("client_ping", || receive(Side::Client, FIN | PING, 8, 1)),
    ("client_32_in_a_read", || receive(Side::Client, FIN | BINARY, 64, 32)),
    ("upstream_binary_64", || receive(Side::Upstream, FIN | BINARY, 64, 1)),
    ("upstream_32_in_a_read", || receive(Side::Upstream, FIN | BINARY, 64, 32)),
    ("open_64", || open(64)),
    ("open_16k", || open(16 << 10)),
    ("seal_64", || seal(64)),
    ("seal_16k", || seal(16 << 10)),
];

/// Prepares the processing of one read that holds `frames` frames, as the relay does it.
fn receive(from: Side, first: u8, payload_len: usize, frames: usize) -> Run {
    let key = (from == Side::Client).then_some([0x5a, 0xa5, 0x0f, 0xf0]);
    let bytes = frame(first, key, &vec![b'x'; payload_len]).repeat(frames);
    let (mut session, mut now) = session();
    Box::new(move || {
        now += Duration::from_millis(1);
        judge(&mut session, from, black_box(&bytes), now);
    })
}

/// Returns a session with the usual features on: message quota, UTF-8 check, timeouts and pings.
fn session() -> (Session, Instant) {
    let setup = Setup::lenient().rate(1_000_000, 1_000_000, OnExcess::Close).with(|limits| {
        limits.message_max_bytes = 16 << 20;
        limits.frame_max_bytes = 16 << 20;
        limits.idle_timeout = Some(Duration::from_secs(600));
        limits.ping_interval = Some(Duration::from_secs(30));
        limits.check_utf8 = true;
    });
    let now = tollgate::runtime::clock::now();
    (Relay::new(setup, now).session, now)
}

fn judge(session: &mut Session, from: Side, mut bytes: &[u8], now: Instant) {
    loop {
        match session.receive(from, bytes, now) {
            Verdict::Forward(n) => bytes = &bytes[n..],
            Verdict::More => return,
            other => panic!("{other:?} where all input is forwarded"),
        }
        if let Some(action) = session.poll_action(now) {
            panic!("{action:?} where all input is forwarded");
        }
    }
}

fn open(plaintext_len: usize) -> Run {
    let mut sealer = Sealer::new(secret(), 0);
    let mut records: Vec<_> = (0..RUNS_MAX).map(|_| sealed(&mut sealer, &vec![b'x'; plaintext_len])).collect();
    let (mut opener, mut at) = (Opener::new(secret(), 0), 0);
    Box::new(move || {
        let opened = opener.open(black_box(&mut records[at]));
        assert!(matches!(opened, Ok(Some(Opened { content: Content::Data(_), .. }))));
        at += 1;
    })
}

fn seal(plaintext_len: usize) -> Run {
    let (plaintext, mut out) = (vec![b'x'; plaintext_len], vec![0; Sealer::sealed_max(plaintext_len)]);
    let mut sealer = Sealer::new(secret(), 0);
    Box::new(move || {
        let sealed = sealer.seal(ContentType::ApplicationData, black_box(&plaintext), &mut out);
        assert!(sealed.is_ok_and(|sealed| sealed.taken == plaintext.len()));
    })
}

fn sealed(sealer: &mut Sealer, plaintext: &[u8]) -> Vec<u8> {
    let mut out = vec![0; Sealer::sealed_max(plaintext.len())];
    let written = sealer.seal(ContentType::ApplicationData, plaintext, &mut out).expect("the record is sealed").written;
    out.truncate(written);
    out
}

fn secret() -> TrafficSecret {
    TrafficSecret::new(Suite::Aes128Gcm, &[7; 32]).expect("a secret has 32 bytes")
}
