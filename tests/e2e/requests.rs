//! Unusual and malformed HTTP: requests of clients, and every form of response of upstreams.

use std::io::Write;
use std::net::TcpStream;

use crate::refusals::{answer, check_id};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, switching};
use crate::support::wire::Peer;

/// A rejection's body that exceeds the limit for upstreams is omitted entirely.
#[test]
fn an_oversized_response_body_is_omitted() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    server.head();
    // The proxy may close the connection before all of it is written.
    let about_it = [
        "Content-Encoding",
        "Content-Type",
        "Content-Language",
        "Content-Location",
        "Content-Range",
        "Content-Disposition",
        "Content-MD5",
        "Digest",
        "Content-Digest",
        "Repr-Digest",
    ];
    let others = ["Content-Security-Policy", "Content-Security-Policy-Report-Only", "Want-Digest"];
    let lines: String = about_it.iter().chain(&others).map(|name| format!("{name}: x\r\n")).collect();
    let _ = server.stream.write_all(&answer("403 Forbidden", &lines, &"x".repeat(1 << 20)));
    let response = client.response();
    assert_eq!((response.head.status(), response.body.as_str()), (403, ""));
    // Headers that describe the omitted body would be wrong for the empty one.
    for name in about_it {
        assert_eq!(response.head.get(name), None, "{name}");
    }
    for name in others {
        assert_eq!(response.head.get(name), Some("x"), "{name}");
    }
    assert_eq!((response.head.get("Content-Length"), response.head.get("X-Kept")), (Some("0"), Some("yes")));
}

/// Responses in every form of HTTP are forwarded; informational responses before them are not.
#[test]
fn responses_in_every_form_are_forwarded() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let table: [(&[u8], u16, &str); 5] = [
        (b"HTTP/1.1 403 Forbidden\r\n\r\nuntil the end", 403, "until the end"),
        (b"HTTP/1.0 500 Oops\r\n\r\nold", 500, "old"),
        (b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 401, "no"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 410 Gone\r\nContent-Length: 1\r\n\r\n.", 410, "."),
    ];
    for (answer, status, body) in table {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(answer);
        drop(server);
        let response = client.response();
        assert_eq!((response.head.status(), response.body.as_str()), (status, body), "{response:?}");
        assert_eq!(gate.log.next("refused")["status"], status);
    }
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").with("Expect: 100-continue").bytes());
    let mut server = upstream.accept();
    let asked = server.head();
    server.send(b"HTTP/1.1 100 Continue\r\n\r\n");
    server.send(&switching(&asked, &[]));
    assert_eq!(client.head().status(), 101);
}

/// The authority of a target in absolute form overrides `Host` (RFC 9112 section 3.2.2).
#[test]
fn the_authority_of_an_absolute_form_target_overrides_host() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let request = Request::to("/open/").first_line("GET wss://other.example/open/?a=b HTTP/1.1");
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    assert_eq!(session.asked.first_line, "GET /open/?a=b HTTP/1.1");
    assert_eq!(session.asked.get("Host"), Some("other.example"));
}

/// An empty port means the default port (RFC 3986 section 3.2.3), and the upstream gets the host without it.
#[test]
fn an_empty_port_is_removed_from_the_host() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let open = || Request::to("/open/");
    for (request, host) in [
        (open().replacing("Host: localhost:"), "localhost"),
        (open().replacing("Host: [::1]:"), "[::1]"),
        (open().first_line("GET ws://other.example:/open/ HTTP/1.1"), "other.example"),
    ] {
        let session = Session::open_with(&gate, &upstream, &request, &[]);
        assert_eq!(session.asked.get("Host"), Some(host));
        assert_eq!(session.asked.get("X-Forwarded-Host"), Some(host));
    }
}

/// RFC 6455 section 4.1 prints this key; the accept value is made from the key as it was sent.
#[test]
fn a_key_with_nonzero_padding_bits_is_accepted() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let key = "AQIDBAUGBwgJCgsMDQ4PEC==";
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").replacing(&format!("Sec-WebSocket-Key: {key}")).bytes());
    upstream.accept().open(&[]);
    let answer = client.head();
    assert_eq!(answer.status(), 101);
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    assert_eq!(answer.get("Sec-WebSocket-Accept"), Some(accept.as_str()));
}

/// Some clients send raw characters in a query that RFC 3986 does not allow. Those that `http::Uri` accepts pass
/// unchanged.
#[test]
fn raw_characters_in_the_query_pass_if_http_accepts_them() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    for (target, passes) in
        [("/open/?a={\"b\":1}", false), ("/open/?a=<b>", false), ("/open/?a=|^`\\[]", true), ("/open/?a=é", true)]
    {
        let mut client = Client::connect(&gate);
        client.send(&Request::to(target).bytes());
        if passes {
            let asked = upstream.accept().open(&[]);
            assert_eq!(client.head().status(), 101, "{target}");
            assert_eq!(asked.first_line, format!("GET {target} HTTP/1.1"));
        } else {
            assert_eq!(client.head().status(), 400, "{target}");
            assert_eq!(gate.log.next("refused")["cause"], "head", "{target}");
        }
    }
}

/// Each request counts against the `upgrade_rate` of its address, valid or not; beyond the rate each gets 429.
#[test]
fn every_request_is_charged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("upgrade_rate = \"7/h\"").start(&upstream);
    let open = || Request::to("/open/");
    let table = [
        (open().without("Upgrade"), 426),
        (open().replacing("Sec-WebSocket-Version: 8"), 426),
        (open().first_line("POST /open/ HTTP/1.1"), 400),
        (open().with("Sec-WebSocket-Protocol: a, a"), 400),
        (open().with("No colon"), 400),
        (open().with(&format!("X-Big: {}", "y".repeat(128 * 1024))), 431),
        (Request::to("/elsewhere"), 404),
        // The burst is used up.
        (open(), 429),
        (open().without("Upgrade"), 429),
        (open().first_line("POST /open/ HTTP/1.1"), 429),
        (open().with("Sec-WebSocket-Protocol: a, a"), 429),
        (Request::to("/elsewhere"), 429),
    ];
    for (request, status) in table {
        let response = Client::connect(&gate).ask(&request);
        assert_eq!(response.head.status(), status, "{request:?}");
        assert_eq!(response.head.get("Retry-After").is_some(), status == 429, "{request:?}");
    }
    upstream.assert_untouched();
}

/// A host with routes of its own is served only by these unless `host_fall_through` is set.
#[test]
fn hosts_do_not_fall_through() {
    let upstream = Upstream::bind();
    let route = |name, host| {
        format!(
            "[[route]]\nname = \"{name}\"\nhost = \"{host}\"\npath = \"/{name}\"\nupstream = \"main\"\nauth = \"none\"\n"
        )
    };
    let routes = format!("{}{}", route("exact", "chat.example.com"), route("wide", "*.example.com"));
    for (setting, fallen) in [("", 404), ("host_fall_through = false", 404), ("host_fall_through = true", 101)] {
        let gate = Setup::new().server(setting).more(&routes).start(&upstream);
        for (host, path, status) in [
            ("chat.example.com", "/exact", 101),
            ("other.example.com", "/wide", 101),
            ("elsewhere.example", "/open/", 101),
            ("chat.example.com", "/wide", fallen),
            ("chat.example.com", "/open/", fallen),
            ("other.example.com", "/open/", fallen),
            ("other.example.com", "/exact", 404),
            ("elsewhere.example", "/wide", 404),
        ] {
            let mut client = Client::connect(&gate);
            client.send(&Request::to(path).replacing(&format!("Host: {host}")).bytes());
            if status == 101 {
                upstream.accept().open(&[]);
            }
            assert_eq!(client.head().status(), status, "{setting:?} {host}{path}");
        }
    }
}

/// hyper answers a head that it cannot parse, and the upstream is not contacted.
#[test]
fn malformed_heads_are_rejected() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("head_max_size = \"8KiB\"\nhead_max_headers = 16").start(&upstream);
    let many = (0..64).fold(Request::to("/open/"), |request, n| request.with(&format!("X-{n}: y")));
    let table = [
        (Request::to("/open/").with(&format!("X-Big: {}", "y".repeat(64 * 1024))), 431),
        (many, 431),
        (Request::to("/open/").first_line("GET /open/ with spaces HTTP/1.1"), 400),
        (Request::to("/open/").first_line("GET /open/ HTTP/1.1\r\n folded: line"), 400),
        (Request::to("/open/").with("No colon"), 400),
        (Request::to("/open/").with("Space : before"), 400),
        (Request::to("/open/").with("Nul: \0"), 400),
        (Request::to("/open/").with("Content-Length: 1").with("Content-Length: 2"), 400),
        (Request::to("/open/").first_line("\x16\x03\x01"), 400),
    ];
    for (request, status) in table {
        let response = Client::connect(&gate).ask(&request);
        assert_eq!(response.head.status(), status, "{request:?}");
        let line = gate.log.next("refused");
        assert_eq!((&line["cause"], &line["status"]), (&"head".into(), &status.into()), "{request:?}");
        check_id(&response.head, &line);
        upstream.assert_untouched();
    }
    // The rejections above do not count against the address.
    Session::open(&gate, &upstream).close();
}

/// `handshake_timeout` covers the TLS handshake and the request head, however far they have got.
#[test]
fn handshake_timeout_ends_slow_heads_and_handshakes() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("handshake_timeout = \"300ms\"").start(&upstream);
    let mut slow_head = Client::connect(&gate);
    slow_head.send(b"GET /open/ HTTP/1.1\r\nHost: chat");
    let mut silent = Client::connect(&gate);
    let no_handshake = TcpStream::connect(gate.address()).unwrap();
    let mut no_handshake = Peer::new(no_handshake, true);

    for client in [&mut slow_head, &mut silent] {
        let (rest, _) = client.rest();
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    }
    no_handshake.expect_end();
    upstream.assert_untouched();
}

/// A client that disconnects before its response releases its slot at once, even if it sent bytes after its request.
#[test]
fn a_disconnected_client_releases_its_slot() {
    let upstream = Upstream::bind();
    let setup = Setup::new().limits("sessions_per_address = 1").upstream("response_timeout = \"5m\"");
    let gate = setup.start(&upstream);
    for early in [&b""[..], b"\x81\x80\0\0\0\0", &[b'x'; 8192]] {
        let mut client = Client::connect(&gate);
        client.send(&[&Request::to("/open/").bytes(), early].concat());
        let mut server = upstream.accept();
        server.head();
        drop(client);
        server.expect_end();
    }
    Session::open(&gate, &upstream).close();
}
