//! Forwarding: frames pass byte for byte, and extensions and subprotocols are negotiated end to end.

use std::thread;

use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

use crate::support::pki::good_token;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, switching};
use crate::support::wire::{BINARY, CONTINUATION, End, Frame, PING, PONG, TEXT};

#[test]
fn frames_pass_byte_for_byte() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    for len in [0, 1, 125, 126, 127, 65535, 65536, 70_000] {
        let payload: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0] ^ 0x5a).collect();
        for (opcode, mask) in [(TEXT, [1, 2, 3, 4]), (BINARY, [0; 4]), (BINARY, [0xff, 0, 0xff, 0x80])] {
            let plain = Frame::new(opcode, &payload);
            let masked = Frame { mask: Some(mask), ..plain.clone() }.bytes();
            client.send(&masked);
            assert_eq!(server.take(masked.len()), masked, "to the upstream, {len} bytes");
            server.send(&plain.bytes());
            assert_eq!(client.take(plain.bytes().len()), plain.bytes(), "to the client, {len} bytes");
        }
    }
}

/// The forwarded bytes do not depend on how the input is split into reads.
#[test]
fn frames_pass_however_they_are_split() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    let frames = [Frame::text("one"), Frame::new(PING, "p"), Frame::new(BINARY, [7; 300]), Frame::text("")];
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.clone().masked().bytes()).collect();
    for byte in &bytes {
        client.send(&[*byte]);
    }
    assert_eq!(server.take(bytes.len()), bytes);
    let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
    for byte in &bytes {
        server.send(&[*byte]);
    }
    assert_eq!(client.take(bytes.len()), bytes);
}

#[test]
fn fragments_and_control_frames_between_them_pass_unchanged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    let frames = [
        Frame::text("a").unfinished(),
        Frame::new(PING, "between"),
        Frame::new(CONTINUATION, "").unfinished(),
        Frame::new(CONTINUATION, "b").unfinished(),
        Frame::new(PONG, "unasked"),
        Frame::new(CONTINUATION, ""),
        Frame::new(BINARY, ""),
    ];
    for frame in &frames {
        client.send_frame(frame.clone());
        assert_eq!(server.frame(), frame.clone().masked());
        server.send_frame(frame.clone());
        assert_eq!(&client.frame(), frame);
    }
}

#[test]
fn large_messages_are_not_buffered() {
    const LEN: usize = 16 << 20;
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("message_max_size = \"16MiB\"").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    let (before, _) = gate.rss_kib();
    let payload: Vec<u8> = (0..LEN).map(|n| n.to_le_bytes()[1] ^ n.to_le_bytes()[0]).collect();
    let masked = Frame::new(BINARY, &payload).masked().bytes();
    thread::scope(|scope| {
        scope.spawn(|| client.send(&masked));
        assert!(server.take(masked.len()) == masked, "the upstream receives what the client sent");
    });
    let plain = Frame::new(BINARY, &payload).bytes();
    thread::scope(|scope| {
        scope.spawn(|| server.send(&plain));
        assert!(client.take(plain.len()) == plain, "the client receives what the upstream sent");
    });
    let (_, peak) = gate.rss_kib();
    eprintln!("16 MiB messages: {before} KiB before, peak {peak} KiB");
    assert!(peak < before + 8 * 1024, "no message is buffered: {before} KiB before, peak {peak} KiB");
}

/// `check_utf8` checks text from clients only.
#[test]
fn upstream_text_is_not_checked() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("check_utf8 = true").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    server.send_frame(Frame::new(TEXT, [0xff]));
    assert_eq!(client.frame(), Frame::new(TEXT, [0xff]));
}

#[test]
fn compression_is_negotiated_end_to_end() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let offer = "Sec-WebSocket-Extensions: x-unknown, permessage-deflate; client_max_window_bits, x-other; a=\"b,c\"";
    let accepted = "permessage-deflate; server_no_context_takeover";
    let Session { mut client, mut server, asked, answer } = Session::open_with(
        &gate,
        &upstream,
        &Request::to("/open/").with(offer),
        &[&format!("Sec-WebSocket-Extensions: {accepted}")],
    );
    assert_eq!(asked.get("Sec-WebSocket-Extensions"), Some("permessage-deflate; client_max_window_bits"));
    assert_eq!(answer.get("Sec-WebSocket-Extensions"), Some(accepted));
    let compressed = Frame::new(TEXT, [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]).rsv(4);
    client.send_frame(compressed.clone());
    assert_eq!(server.frame(), compressed.clone().masked());
    server.send_frame(compressed.clone());
    assert_eq!(client.frame(), compressed);
}

#[test]
fn unsupported_extensions_are_not_offered_upstream() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let request = Request::to("/open/").with("Sec-WebSocket-Extensions: x-unknown");
    let Session { asked, answer, .. } = Session::open_with(&gate, &upstream, &request, &[]);
    assert_eq!((asked.get("Sec-WebSocket-Extensions"), answer.get("Sec-WebSocket-Extensions")), (None, None));

    // With `check_utf8` compression is not offered: text in compressed messages could not be checked.
    let gate = Setup::new().limits("check_utf8 = true").start(&upstream);
    let request = Request::to("/open/").with("Sec-WebSocket-Extensions: permessage-deflate");
    let mut session = Session::open_with(&gate, &upstream, &request, &[]);
    assert_eq!(session.asked.get("Sec-WebSocket-Extensions"), None);
    session.client.send_frame(Frame::text("x").rsv(4));
    assert_eq!(session.expect_closed(1002, "reserved bit"), []);
}

#[test]
fn subprotocols_are_negotiated_without_the_token() {
    let token = good_token();
    let bearer = format!("bearer, {token}, chat, other");
    let only_bearer = format!("bearer, {token}");
    let only_within = format!("token.{token}");
    let within = format!("chat, {only_within}");
    // The client's offer, the offer that the upstream sees, its choice, and the choice that the client sees.
    let table = [
        ("/open/", "a, b", Some("a, b"), Some("b"), Some("b")),
        ("/open/", "a", Some("a"), None, None),
        ("/room/blue", bearer.as_str(), Some("chat, other"), Some("chat"), Some("chat")),
        // A browser fails the connection if none of the offered subprotocols is chosen.
        ("/room/blue", bearer.as_str(), Some("chat, other"), None, Some("bearer")),
        ("/room/blue", only_bearer.as_str(), None, None, Some("bearer")),
        ("/room/blue", within.as_str(), Some("chat"), Some("chat"), Some("chat")),
        ("/room/blue", within.as_str(), Some("chat"), None, Some(only_within.as_str())),
        ("/room/blue", only_within.as_str(), None, None, Some(only_within.as_str())),
    ];
    let upstream = Upstream::bind();
    let gate =
        Setup::new().auth("token_from = [\"subprotocol:bearer\", \"subprotocol_prefix:token.\"]").start(&upstream);
    for (path, offer, seen, pick, told) in table {
        let pick: Vec<String> = pick.into_iter().map(|pick| format!("Sec-WebSocket-Protocol: {pick}")).collect();
        let pick: Vec<&str> = pick.iter().map(String::as_str).collect();
        let request = Request::to(path).with(&format!("Sec-WebSocket-Protocol: {offer}"));
        let Session { asked, answer, .. } = Session::open_with(&gate, &upstream, &request, &pick);
        assert_eq!(asked.get("Sec-WebSocket-Protocol"), seen);
        assert_eq!(answer.get("Sec-WebSocket-Protocol"), told);
    }
}

/// Bytes that a client sends before its 101 are forwarded after the 101, and discarded if there is none.
#[test]
fn bytes_after_the_request_wait_for_the_101() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let early = [Frame::text("early").masked().bytes(), Frame::text("bird").masked().bytes()].concat();
    let bytes = [Request::to("/open/").bytes(), early.clone()].concat();

    let mut client = Client::connect(&gate);
    client.send(&bytes);
    let mut server = upstream.accept();
    let asked = server.head();
    // None of them may arrive before the 101: the upstream would read them as a second request.
    server.expect_nothing_yet();
    server.send(&switching(&asked, &[]));
    assert_eq!(server.take(early.len()), early);
    assert_eq!(client.head().status(), 101);

    let mut client = Client::connect(&gate);
    client.send(&bytes);
    let mut server = upstream.accept();
    server.head();
    server.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    assert_eq!(server.rest(), (Vec::new(), End::Clean));
    let response = client.response();
    assert_eq!((response.head.status(), response.body.as_str()), (403, "no"));

    // A second request on the same connection is ignored.
    let second = Request::to("/open/second").bytes();
    let mut client = Client::connect(&gate);
    client.send(&[Request::to("/elsewhere").bytes(), second].concat());
    assert_eq!(client.response().head.status(), 404);
    upstream.assert_untouched();
}

/// Frames that the upstream sends together with its 101 are forwarded.
#[test]
fn bytes_after_the_101_are_forwarded() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    let asked = server.head();
    let greeting = [Frame::text("hello").bytes(), Frame::close(4000, "and bye").bytes()].concat();
    server.send(&[switching(&asked, &["Set-Cookie: a=b", "X-Served-By: one"]), greeting.clone()].concat());
    let answer = client.head();
    assert_eq!((answer.get("Set-Cookie"), answer.get("X-Served-By")), (Some("a=b"), Some("one")));
    assert_eq!(client.take(greeting.len()), greeting);
}

/// Both ends are an independent implementation, tungstenite.
#[test]
fn tungstenite_works_at_both_ends() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let client = Client::connect(&gate).stream;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut echo = tungstenite::accept(upstream.accept().stream).unwrap();
            loop {
                match echo.read() {
                    Ok(message) if message.is_text() || message.is_binary() => echo.send(message).unwrap(),
                    Ok(_) => {}
                    Err(error) => return assert!(matches!(error, tungstenite::Error::ConnectionClosed), "{error}"),
                }
            }
        });
        let (mut socket, _) = tungstenite::client("wss://chat.example.com/open/", client).unwrap();
        let long = "\u{1f44b}".repeat(50_000);
        for message in [Message::text("hi"), Message::binary(vec![0; 1000]), Message::text(long), Message::text("")] {
            socket.send(message.clone()).unwrap();
            assert!(socket.read().unwrap() == message, "the echo is the message");
        }
        socket.send(Message::Ping("still there?".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("still there?".into()));
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    });
}

/// Messages of the upstream reach a client that never sends any.
#[test]
fn one_way_streams_reach_a_silent_client() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let Session { client, mut server, .. } = Session::open(&gate, &upstream);
    let mut socket = WebSocket::from_raw_socket(client.stream, Role::Client, None);
    for n in 0..100 {
        server.send_text(&n.to_string());
    }
    for n in 0..100 {
        assert_eq!(socket.read().unwrap(), Message::text(n.to_string()));
    }
}
