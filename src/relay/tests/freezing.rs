//! Tests of sessions that are frozen, and continue in another task.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::record::Suite;
use crate::relay::freezing::{Freezing, MovingParts, MovingSession};
use crate::relay::image::{ImageError, SessionImage, VERSIONS};
use crate::relay::session_task::RelayTask;
use crate::relay::terms::RelayTerms;
use crate::runtime::socket::DetachedSocket;
use crate::ws::frame::apply_mask;

/// Returns limits that permit small fragments.
fn generous() -> Limits {
    let overhead = Quota { burst: NonZeroU32::new(1_000).unwrap(), ..limits().overhead };
    Limits { check_utf8: true, overhead, ..limits() }
}

/// The far ends of a session: the client and the upstream.
struct Ends {
    client: TcpStream,
    upstream: TcpStream,
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, far)
}

/// Starts a session without TLS on a worker.
async fn started(worker: &SessionContext, terms: SessionConfig) -> Ends {
    let ((client, far_client), (upstream, far_upstream)) = (connected().await, connected().await);
    let (client, upstream) = (ClientStream::plain(client.into()), UpstreamStream::Plain(upstream.into()));
    let relay = relay_in(worker, terms, client, upstream, clock::now());
    tokio::spawn(RelayTask::from(relay));
    Ends { client: far_client, upstream: far_upstream }
}

/// Freezes the only session of a worker.
async fn freeze(worker: &SessionContext, round: u32) -> Freezing {
    let (reply, mut answers) = mpsc::channel(1);
    worker.registry().freeze(round, 8, &reply);
    drop(reply);
    let answer = answers.recv().await.expect("the session does not answer");
    assert!(answers.recv().await.is_none(), "several answers");
    answer
}

/// Continues a frozen session on another worker, as another process would: from bytes and descriptors.
fn moved(moving: MovingSession, worker: &SessionContext, version: u16) {
    let image = moving.image().encode(version).unwrap();
    let (client, upstream) = moving.sockets();
    let clone = |socket: std::os::fd::BorrowedFd<'_>| {
        DetachedSocket::from_descriptor(socket.try_clone_to_owned().unwrap()).unwrap()
    };
    let (client, upstream) = (clone(client), upstream.map(clone));
    moving.release();
    let image = SessionImage::decode(version, &image).unwrap();
    let admission = admitted(Arc::new(generous()), clock::now());
    let facts = session_facts(&admission, 1, clock::now());
    let session = worker.register(Arc::clone(&facts), Arc::clone(admission.route()));
    let terms =
        RelayTerms { limits: Arc::new(generous()), shared: SharedCounts::default(), lease: admission.into_lease() };
    let target = ["all", "echo", "server"].map(Arc::from);
    let metrics = worker.metrics().resume_session(target, &image.session.counts);
    let connection = LoadGuard::new(&Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let guards = RelayGuards { session, connection, metrics };
    let relay = Relay::resume(
        MovingParts { image, client, upstream, exported_at: clock::now() },
        terms,
        facts,
        process(),
        guards,
    )
    .unwrap();
    tokio::spawn(RelayTask::from(relay));
}

fn process() -> Arc<Process> {
    let log = crate::telemetry::test_config();
    Arc::new(Process {
        lifecycle: Lifecycle::new(Duration::from_secs(1)),
        sessions: Sessions::new(&log, Identities::new(&log, [0; 32])),
        metrics: Arc::new(Metrics::new(Duration::ZERO)),
        events: Events::new(false),
        early_ends: EarlyEnds::default(),
    })
}

fn block_on(test: impl Future<Output = ()>) {
    let patient = async { tokio::time::timeout(PATIENCE, test).await.expect("the test does not end") };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(patient);
}

/// Returns frames of a side: a text in three fragments with a ping in between, and a message with a long header.
fn frames(mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let long = vec![b'l'; 300];
    for (first, payload) in
        [(0x01, &b"one \xc3"[..]), (0x89, b"ping"), (0x00, b"\xa9 two"), (0x80, b"three"), (0x82, &long), (0x81, b"")]
    {
        bytes.push(first);
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match u8::try_from(payload.len()).ok().filter(|len| *len < 126) {
            Some(len) => bytes.push(bit | len),
            None => bytes.extend([bit + 126, 1, 44]),
        }
        bytes.extend(mask.into_iter().flatten());
        let at = bytes.len();
        bytes.extend_from_slice(payload);
        if let Some(mask) = mask {
            apply_mask(&mut bytes[at..], mask, 0);
        }
    }
    bytes
}

#[test]
fn a_session_continues_at_any_byte_of_its_frames() {
    block_on(async {
        let (from_client, from_upstream) = (frames(Some(*b"mask")), frames(None));
        for cut in (0..from_client.len()).filter(|cut| *cut < 60 || cut % 40 == 0) {
            let (before, after) = (SessionContext::default(), SessionContext::default());
            let Ends { mut client, mut upstream } = started(&before, terms(generous())).await;
            let other = cut.min(from_upstream.len());
            client.write_all(&from_client[..cut]).await.unwrap();
            upstream.write_all(&from_upstream[..other]).await.unwrap();
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            let Freezing::Frozen(moving) = freeze(&before, 1).await else { panic!("not frozen") };
            // The sockets are open while the session is frozen, and bytes that arrive are kept by the kernel.
            client.write_all(&from_client[cut..]).await.unwrap();
            let version = if cut % 2 == 0 { *VERSIONS.start() } else { *VERSIONS.end() };
            moved(*moving, &after, version);
            upstream.write_all(&from_upstream[other..]).await.unwrap();
            let (mut at_upstream, mut at_client) = (vec![0; from_client.len()], vec![0; from_upstream.len()]);
            upstream.read_exact(&mut at_upstream).await.unwrap();
            client.read_exact(&mut at_client).await.unwrap();
            assert!(at_upstream == from_client && at_client == from_upstream, "after {cut} bytes");
            tokio::task::yield_now().await;
            assert_eq!((before.registry().list().len(), after.registry().list().len()), (0, 1));
        }
    });
}

#[test]
fn a_session_that_comes_back_continues_where_it_was_frozen() {
    block_on(async {
        let worker = SessionContext::default();
        let Ends { mut client, mut upstream } = started(&worker, terms(generous())).await;
        let from_client = frames(Some(*b"mask"));
        for round in 1..=from_client.len() {
            client.write_all(&from_client[round - 1..round]).await.unwrap();
            let Freezing::Frozen(moving) = freeze(&worker, u32::try_from(round).unwrap()).await else {
                panic!("not frozen")
            };
            moving.resume();
        }
        let mut received = vec![0; from_client.len()];
        upstream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, from_client);
        assert_eq!(worker.registry().list().len(), 1);
    });
}

#[test]
fn a_session_is_asked_once_in_a_round() {
    block_on(async {
        let worker = SessionContext::default();
        let _ends = started(&worker, terms(generous())).await;
        let Freezing::Frozen(moving) = freeze(&worker, 1).await else { panic!("not frozen") };
        moving.resume();
        let (reply, mut answers) = mpsc::channel(1);
        worker.registry().freeze(1, 8, &reply);
        drop(reply);
        assert!(answers.recv().await.is_none());
    });
}

#[test]
fn commands_of_a_frozen_session_are_executed_when_it_comes_back() {
    block_on(async {
        let worker = SessionContext::default();
        let Ends { mut client, .. } = started(&worker, terms(generous())).await;
        let Freezing::Frozen(moving) = freeze(&worker, 1).await else { panic!("not frozen") };
        let close = Command::Close { code: CloseCode::POLICY_VIOLATION, reason: "kicked".into() };
        worker.registry().deliver(RequestId(1), close).unwrap();
        tokio::task::yield_now().await;
        moving.resume();
        let mut received = [0; 10];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"\x88\x08\x03\xf0kicked");
    });
}

/// A session of each version, with secrets of tests. They are written by `UPDATE_GOLDEN=1 cargo test`, which must not be
/// done for a version that was released.
const FIXTURES: [(u16, &str); 2] = [(1, "tests/handover/session-v1.bin"), (2, "tests/handover/session-v2.bin")];

/// Returns the image of a session with TLS that has an unfinished message on both sides and an operator's message.
async fn image_of_test() -> MovingSession {
    let worker = SessionContext::default();
    let ((client, mut far_client), (upstream, mut far_upstream)) = (connected().await, connected().await);
    let secret = |byte: u8| TrafficSecret::new(Suite::Aes256Gcm, &[byte; 48]).unwrap();
    let client = ClientStream::of_test(client.into(), secret(1), secret(2));
    let upstream = UpstreamStream::Plain(upstream.into());
    let limits = Limits { ping_interval: Some(PATIENCE), ..generous() };
    let relay = relay_in(&worker, terms(limits), client, upstream, clock::now());
    tokio::spawn(RelayTask::from(relay));
    far_upstream.write_all(b"\x01\x0aunfinished\x00\x05ab").await.unwrap();
    let mut sealer = Sealer::new(secret(1), 7);
    let mut records = vec![0; Sealer::sealed_max(64)];
    let frame = b"\x01\x83\0\0\0\0abc\x00";
    let records_end = sealer.seal(crate::record::ContentType::ApplicationData, frame, &mut records).unwrap().written;
    // The start of a second record stays in the stream.
    far_client.write_all(&records[..records_end]).await.unwrap();
    far_client.write_all(&records[..3]).await.unwrap();
    let mut forwarded = [0; 9];
    far_upstream.read_exact(&mut forwarded).await.unwrap();
    let Freezing::Frozen(moving) = freeze(&worker, 1).await else { panic!("not frozen") };
    *moving
}

#[test]
fn sessions_of_both_versions_are_read_and_written() {
    block_on(async {
        let moving = image_of_test().await;
        for (version, path) in FIXTURES {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &**moving.image().encode(version).unwrap()).unwrap();
            }
            let bytes = std::fs::read(&path).unwrap();
            let image = SessionImage::decode(version, &bytes).unwrap();
            assert_eq!(**image.encode(version).unwrap(), bytes, "version {version} has changed");
            assert_eq!((image.session.counts.client.messages, image.session.counts.upstream.messages), (1, 1));
            assert!(image.session.client.inspector.message.is_some() && image.session.upstream.mid_frame);
            // The other version has the same state, as far as version 1 has it.
            for other in VERSIONS {
                let there = SessionImage::decode(other, &image.encode(other).unwrap()).unwrap();
                let back = SessionImage::decode(1, &there.encode(1).unwrap()).unwrap();
                assert_eq!(*back.encode(1).unwrap(), *image.encode(1).unwrap(), "{version} to {other}");
            }
        }
        for version in [0, 3, u16::MAX] {
            assert_eq!(moving.image().encode(version).unwrap_err(), ImageError::Version(version));
            assert_eq!(SessionImage::decode(version, &[]).unwrap_err(), ImageError::Version(version));
        }
        let bytes = moving.image().encode(2).unwrap();
        for len in 0..bytes.len() {
            assert_eq!(SessionImage::decode(2, &bytes[..len]).unwrap_err(), ImageError::Malformed, "{len} bytes");
        }
        assert_eq!(SessionImage::decode(2, &[&bytes[..], b"x"].concat()).unwrap_err(), ImageError::Malformed);
    });
}
