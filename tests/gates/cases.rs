//! What the pure core and the record layer do for every message, as cases to be run over and over and counted.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tollgate::policy::limits::OnExcess;
use tollgate::record::{Content, ContentType, Opened, Opener, Sealer, Suite, TrafficSecret};
use tollgate::session::{Session, Side, Verdict};

use super::harness::relay::{Relay, Setup};
use super::harness::wire::{BINARY, FIN, PING, TEXT, frame};

/// How often a case can be run.
pub const RUNS_MAX: usize = 64;

/// A step, ready to be run [`RUNS_MAX`] times.
pub type Run = Box<dyn FnMut()>;

/// Names as in `ceilings.toml`, and what makes each ready.
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

/// One read that brings so many frames, judged as the relay does it.
fn receive(from: Side, first: u8, payload_len: usize, frames: usize) -> Run {
    let key = (from == Side::Client).then_some([0x5a, 0xa5, 0x0f, 0xf0]);
    let bytes = frame(first, key, &vec![b'x'; payload_len]).repeat(frames);
    let (mut session, mut now) = session();
    Box::new(move || {
        now += Duration::from_millis(1);
        judge(&mut session, from, black_box(&bytes), now);
    })
}

/// With all that users would have: messages are counted, text is checked, deadlines are kept.
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
            other => panic!("{other:?} where everything passes"),
        }
        if let Some(action) = session.poll_action(now) {
            panic!("{action:?} where everything passes");
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
    let written = sealer.seal(ContentType::ApplicationData, plaintext, &mut out).expect("it seals").written;
    out.truncate(written);
    out
}

fn secret() -> TrafficSecret {
    TrafficSecret::new(Suite::Aes128Gcm, &[7; 32]).expect("32 bytes are a secret")
}
