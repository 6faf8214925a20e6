//! Servers that stall: each stall ends in a limited time, with the status or the close code that names it, and takes a
//! limited amount of memory meanwhile.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::Api;
use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream, switching};
use crate::support::wire::{BINARY, CLOSE, End, Frame, PING};

/// The limit on the growth of the proxy's memory. It grows by less than 400 KiB: a session buffers two reads at most, and
/// the allocator keeps some of what it freed.
const GROWTH_MAX_KIB: u64 = 4 << 10;
/// The limit on the bytes that a session buffers for a side: one read, and what is left of the one before.
const BUFFERED_MAX_BYTES: u64 = 128 << 10;
/// Write timeout after which the writes of a test count as blocked.
const BLOCKED: Duration = Duration::from_millis(300);
/// The code that the client of a server gets from which nothing arrives any more.
const SILENT_CODE: u16 = 1014;
/// Payload of a frame that is longer than all buffers on its way.
const GIGABYTE: u64 = 1 << 30;

/// Runs `stall`, and checks that the proxy's peak memory grows little meanwhile.
fn with_bounded_memory<T>(gate: &Gate, what: &str, stall: impl FnOnce() -> T) -> T {
    let (before, _) = gate.rss_kib();
    let result = stall();
    let (_, peak) = gate.rss_kib();
    let growth = peak.saturating_sub(before);
    assert!(growth < GROWTH_MAX_KIB, "{what}: the proxy's memory grew by {growth} KiB");
    result
}

/// Sends a request, and returns the client and the server that got it.
fn ask(gate: &Gate, upstream: &Upstream) -> (Client, Server) {
    let mut client = Client::connect(gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    server.head();
    (client, server)
}

/// Writes the bytes again and again, with a pause after each write, until the proxy closes the connection. Returns the
/// number of bytes that it took.
fn pump(mut stream: TcpStream, bytes: Vec<u8>, pause: Duration) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let (mut sent, until) = (0, Instant::now() + PATIENCE);
        while stream.write_all(&bytes).is_ok() {
            assert!(Instant::now() < until, "the proxy still reads after {sent} bytes");
            sent += bytes.len() as u64;
            // The pace of the server is under test.
            thread::sleep(pause);
        }
        sent
    })
}

/// Checks the response to a request and its log line.
fn expect_refused(gate: &Gate, client: &mut Client, status: u16, cause: &str, what: &str) {
    assert_eq!(client.response().head.status(), status, "{what}");
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["status"]), (&json!(cause), &json!(status)), "{what}: {line}");
    assert_eq!(line["upstream"], "main", "{what}: {line}");
}

/// Checks the log line of a session's end.
fn expect_ended(gate: &Gate, by: &str, cause: &str, code: u16) -> Value {
    let line = gate.log.next("session ended");
    assert_eq!((&line["by"], &line["cause"], &line["code"]), (&json!(by), &json!(cause), &json!(code)), "{line}");
    line
}

/// Returns the header of a server's frame with this many bytes of payload.
fn long_frame(payload_len: u64) -> Vec<u8> {
    [&[0x80 | BINARY, 0x7f][..], &payload_len.to_be_bytes()].concat()
}

/// `response_timeout` covers the connection's whole time up to the end of the head: no answer, a part of one, and a
/// response that is not final are the same to the client.
#[test]
fn a_server_that_sends_no_whole_head_is_given_up_after_response_timeout() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let answers =
        ["", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-Half: ", "HTTP/1.1 100 Continue\r\n\r\n"];
    let upstream = Upstream::bind();
    let gate = Setup::new().upstream("response_timeout = \"400ms\"").start(&upstream);
    for answer in answers {
        let asked_at = Instant::now();
        let (mut client, mut server) = ask(&gate, &upstream);
        server.send(answer.as_bytes());
        expect_refused(&gate, &mut client, 504, "upstream_timeout", answer);
        assert!(asked_at.elapsed() >= TIMEOUT, "{answer:?}: after {:?}", asked_at.elapsed());
        // The connection of the server is closed, too.
        server.expect_end();
    }
    Session::open(&gate, &upstream).close();
}

/// A frozen server still accepts connections. One request waits for its timeout, and the next ones get another server.
#[test]
fn after_a_request_without_an_answer_the_next_ones_go_elsewhere() {
    let (frozen, other) = (Upstream::bind(), Upstream::bind());
    let first = format!("{{ address = \"{}\", weight = 1000 }}", frozen.address());
    let servers = format!("servers = [{first}, \"{}\"]", other.address());
    let gate = Gate::start(Setup::new().upstream(&servers).upstream("response_timeout = \"1s\""));
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    assert_eq!(client.head().status(), 504);
    let _sessions: Vec<_> = (0..5).map(|_| Session::open(&gate, &other)).collect();
}

/// Bytes that arrive do not extend `response_timeout`.
#[test]
fn a_head_that_arrives_byte_by_byte_is_given_up_after_response_timeout() {
    let upstream = Upstream::bind();
    let gate = Setup::new().upstream("response_timeout = \"500ms\"").start(&upstream);
    let (mut client, mut server) = ask(&gate, &upstream);
    server.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-Slow: ");
    let dripping = pump(server.stream, b"x".to_vec(), Duration::from_millis(20));
    expect_refused(&gate, &mut client, 504, "upstream_timeout", "a byte at a time");
    assert!(dripping.join().unwrap() > 1, "the server was given up before its second byte");
}

/// Responses that are not final neither extend the time nor keep the other sessions of the worker from their messages.
#[test]
fn a_flood_of_informational_responses_is_given_up_after_response_timeout() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("workers = 1").upstream("response_timeout = \"1s\"").start(&upstream);
    let mut other = Session::open(&gate, &upstream);
    let (mut client, server) = ask(&gate, &upstream);
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000);
    with_bounded_memory(&gate, "a flood of 103", || {
        let flooding = pump(server.stream, hints, Duration::ZERO);
        for number in 0..10 {
            other.echo(&number.to_string());
        }
        expect_refused(&gate, &mut client, 504, "upstream_timeout", "a flood of 103");
        flooding.join().unwrap();
    });
    other.echo("still open");
    other.close();
}

/// The head of a response is limited to 32 KiB and 128 fields, whatever its status.
#[test]
fn a_head_that_is_too_large_is_rejected_before_it_is_read_to_its_end() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let line = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let cases: [(&str, &[u8], Vec<u8>); 4] = [
        ("one long field", b"X-Long: ", vec![b'x'; 64 << 10]),
        ("many fields", b"", b"X-Many: x\r\n".repeat(1000)),
        ("an endless name", b"", vec![b'n'; 64 << 10]),
        ("folded lines", b"X-Folded: x", b"\r\n x".repeat(1000)),
    ];
    for (what, before, again) in cases {
        let (mut client, mut server) = ask(&gate, &upstream);
        server.send(&[line, before].concat());
        with_bounded_memory(&gate, what, || {
            let sending = pump(server.stream, again, Duration::ZERO);
            expect_refused(&gate, &mut client, 502, "upstream_malformed", what);
            let sent = sending.join().unwrap();
            assert!(sent < GIGABYTE / 16, "{what}: the proxy took {sent} bytes");
        });
    }
    // As many fields as are permitted pass.
    let fields: Vec<String> = (0..100).map(|number| format!("X-Field-{number}: {}", "v".repeat(200))).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let session = Session::open_with(&gate, &upstream, &Request::to("/open/"), &fields);
    assert_eq!(session.answer.get("X-Field-99").map(str::len), Some(200));
    session.close();
}

/// The status decides, so the client gets it without the body, a second after the head at the latest.
#[test]
fn an_endless_body_after_another_status_is_dropped() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let chunk = [b"2000\r\n".as_slice(), &[b'a'; 0x2000], b"\r\n"].concat();
    let cases: [(&str, &str, Vec<u8>, Duration); 4] = [
        ("endless chunks", "Transfer-Encoding: chunked", chunk, Duration::ZERO),
        ("endless length", "Content-Length: 9223372036854775807", vec![b'a'; 64 << 10], Duration::ZERO),
        ("until the end of the connection", "X-Kept: yes", vec![b'a'; 64 << 10], Duration::ZERO),
        ("a byte at a time", "Content-Length: 60000", b"a".to_vec(), Duration::from_millis(20)),
    ];
    for (what, field, body, pause) in cases {
        let (mut client, mut server) = ask(&gate, &upstream);
        server.send(format!("HTTP/1.1 403 Forbidden\r\n{field}\r\nX-Reason: none\r\n\r\n").as_bytes());
        with_bounded_memory(&gate, what, || {
            let sending = pump(server.stream, body, pause);
            let response = client.response();
            assert_eq!((response.head.status(), response.body.as_str()), (403, ""), "{what}");
            assert_eq!(response.head.get("X-Reason"), Some("none"), "{what}");
            sending.join().unwrap();
        });
        let line = gate.log.next("refused");
        assert_eq!((&line["cause"], &line["status"]), (&json!("upstream_status"), &json!(403)), "{what}: {line}");
    }
}

/// Opens a session whose proxy has an admin API. Returns the id of the session, too.
fn open_with_api(limits: &str, upstream: &Upstream) -> (Api, Gate, Session, String) {
    let api = Api::new();
    let gate = Setup::new().limits(limits).more(&api.section()).start(upstream);
    let session = Session::open(&gate, upstream);
    let id = session.asked.get("x-request-id").unwrap().to_owned();
    (api, gate, session, id)
}

/// The client is not read while the server does not read, so it is blocked itself, and learns why its session ends.
#[test]
fn a_server_that_never_reads_blocks_its_client_and_ends_with_1014() {
    let upstream = Upstream::bind();
    let (api, gate, session, id) = open_with_api("write_timeout = \"2s\"\nclose_timeout = \"2s\"", &upstream);
    let Session { mut client, server, .. } = session;
    with_bounded_memory(&gate, "a server that never reads", || {
        client.set_timeout(BLOCKED);
        let (sent, _) = client.flood();
        let described = api.get(&format!("/v1/sessions/{id}"));
        let (passed, buffered) = (described["bytes_in"].as_u64().unwrap(), described["buffered_in_bytes"].as_u64());
        assert!(buffered.is_some_and(|buffered| 0 < buffered && buffered < BUFFERED_MAX_BYTES), "{described}");
        assert!(passed <= sent as u64, "{described}");
        assert_eq!(described["next_deadline"]["kind"], "upstream_write_timeout", "{described}");
        client.set_timeout(PATIENCE);
        assert_eq!(client.expect_close(1014), "upstream does not read");
        let line = expect_ended(&gate, "tollgate", "upstream_write_stall", 1014);
        assert_eq!(line["server"], upstream.address().to_string(), "{line}");
    });
    drop(client);
    api.wait_for_sessions(0);
    drop(server);
}

/// A server that reads everything and answers nothing, not even the Close, holds its client no longer than
/// `close_timeout`.
#[test]
fn a_server_that_never_answers_a_ping_ends_with_no_pong() {
    let upstream = Upstream::bind();
    let limits = "upstream_ping_interval = \"200ms\"\npong_timeout = \"400ms\"\nclose_timeout = \"500ms\"";
    let (api, gate, session, _) = open_with_api(limits, &upstream);
    let Session { mut client, mut server, .. } = session;
    client.send_text("read, but not answered");
    server.expect_text("read, but not answered");
    assert_eq!(server.frame().opcode, PING);
    // No second ping precedes the end.
    let close = server.frame();
    assert_eq!(close.opcode, CLOSE, "{close:?}");
    assert_eq!(close.close_payload(), (Some(1001), "no pong".to_owned()));
    assert_eq!(client.expect_close(SILENT_CODE), "no pong");
    client.send_frame(Frame::close(SILENT_CODE, ""));
    client.expect_clean_end();
    expect_ended(&gate, "tollgate", "upstream_no_pong", SILENT_CODE);
    server.expect_end();
    drop(server);
    api.wait_for_sessions(0);
}

/// No ping can be sent to the client inside the frame, so that a client that is gone would not be noticed either.
#[test]
fn a_server_that_stops_within_a_frame_ends_the_session() {
    let upstream = Upstream::bind();
    let limits = "ping_interval = \"300ms\"\npong_timeout = \"300ms\"\nclose_timeout = \"300ms\"";
    let (api, gate, session, _) = open_with_api(limits, &upstream);
    let Session { mut client, mut server, .. } = session;
    let half = [long_frame(1 << 20), vec![7; 500]].concat();
    server.send(&half);
    assert_eq!(server.expect_close(1001), "no pong");
    let (received, _) = client.rest();
    assert_eq!(received, half);
    expect_ended(&gate, "tollgate", "upstream_no_pong", SILENT_CODE);
    server.expect_end();
    drop(server);
    api.wait_for_sessions(0);
}

/// Lets a server send a gigabyte to a client that reads nothing, and checks the end of the session at both ends. With
/// `ahead` the gigabyte follows the 101 at once, and the client does not read that either.
fn send_a_gigabyte(ahead: bool) {
    let upstream = Upstream::bind();
    let api = Api::new();
    let limits = "write_timeout = \"1500ms\"\nclose_timeout = \"500ms\"\nping_interval = \"off\"";
    let gate = Setup::new().limits(limits).more(&api.section()).start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    let asked = server.head();
    let id = asked.get("x-request-id").unwrap();
    let answer = switching(&asked, &[]);
    if ahead {
        server.send(&[answer, long_frame(GIGABYTE), vec![7; 256 << 10]].concat());
    } else {
        server.send(&answer);
        assert_eq!(client.head().status(), 101);
        server.send(&long_frame(GIGABYTE));
    }
    with_bounded_memory(&gate, "a gigabyte for a client that never reads", || {
        let sending = pump(server.stream.try_clone().unwrap(), vec![7; 64 << 10], Duration::ZERO);
        let until = Instant::now() + PATIENCE;
        // The client's kernel takes some megabytes at first.
        let blocked = loop {
            let (status, described) = api.ask("GET", &format!("/v1/sessions/{id}"), None);
            if status == 200 && described["next_deadline"]["kind"] == "client_write_timeout" {
                break described;
            }
            assert!(Instant::now() < until, "the client is not blocked: {described}");
        };
        let buffered = blocked["buffered_out_bytes"].as_u64();
        assert!(buffered.is_some_and(|buffered| buffered < BUFFERED_MAX_BYTES), "{blocked}");
        assert_eq!(server.expect_close(1001), "client does not read");
        let line = expect_ended(&gate, "tollgate", "client_write_stall", 1001);
        assert_eq!(line["server"], upstream.address().to_string(), "{line}");
        sending.join().unwrap();
    });
    api.wait_for_sessions(0);
    // The frame is incomplete, so that the client gets no Close: a part of the frame, and then the end.
    let (_, end) = client.rest();
    assert_eq!(end, End::Cut);
}

#[test]
fn a_gigabyte_for_a_client_that_never_reads_stays_at_the_server() {
    send_a_gigabyte(false);
}

#[test]
fn a_gigabyte_right_behind_the_101_stays_at_the_server() {
    send_a_gigabyte(true);
}

/// The client gets the part of the frame that arrived and the end of the stream, since no Close can be sent inside a
/// frame. Between the frames of a message it gets a Close.
#[test]
fn a_server_that_closes_in_the_middle_of_a_message_ends_with_1014() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let half = [long_frame(1 << 20), vec![7; 1 << 19]].concat();
    for how in [Shutdown::Write, Shutdown::Both] {
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        server.send(&half);
        server.stream.shutdown(how).unwrap();
        let (received, _) = client.rest();
        assert!(received == half, "{how:?}: {} of {} bytes", received.len(), half.len());
        expect_ended(&gate, "upstream", "upstream_gone", 1014);

        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        server.send_frame(Frame::text("the beginning").unfinished());
        server.stream.shutdown(how).unwrap();
        let frame = client.frame();
        assert_eq!((frame.fin, frame.payload.as_slice()), (false, b"the beginning".as_slice()));
        assert_eq!(client.expect_close(1014), "upstream went away");
        client.send_frame(Frame::close(1014, ""));
        expect_ended(&gate, "upstream", "upstream_gone", 1014);
    }
}
