//! Requests that two parties could delimit or address differently (RFC 9112 section 11.2), and those that are normalised.

use crate::support::session::Client;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It is rejected with this status, and the server gets nothing.
    Refused(u16),
    /// The server gets this request line and this body.
    Passed(&'static str, &'static str),
    /// The server may get the head, and never the end of the body. The client gets a 400.
    Broken,
}
use Fate::{Broken, Passed, Refused};

const HOST: &str = "Host: chat.example.com\r\n";

/// Each request, without its `Host` line where it says `~`.
const TABLE: &[(&str, Fate)] = &[
    // Lengths.
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 4\r\n\r\nbody", Passed("POST /open/ HTTP/1.1", "body")),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 4, 4\r\n\r\nbody", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: +4\r\n\r\nbody", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: -1\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 0x4\r\n\r\nbody", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 4 4\r\n\r\nbody", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length:\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Content-Length: 18446744073709551616\r\n\r\n", Refused(400)),
    // Transfer codings.
    (
        "POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        Passed("POST /open/ HTTP/1.1", "body"),
    ),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", Passed("POST /open/ HTTP/1.1", "")),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    (
        "POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: identity\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked;x=y\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding:\r\n\r\n", Refused(400)),
    ("POST /open/ HTTP/1.0\r\n~Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    // Lines.
    ("GET /open/ HTTP/1.1\r\n~X-A: b\r\n folded\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~X-A : b\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~Transfer-Encoding : chunked\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~ X-A: b\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n X-A: b\r\n~\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~X-A: a\rb\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~X-A: a\0b\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~X\0A: b\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~: b\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~no colon\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~X-A: b\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\n~\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~\n", Refused(400)),
    ("\r\nGET /open/ HTTP/1.1\r\n~\r\n", Passed("GET /open/ HTTP/1.1", "")),
    // The request line.
    ("GET  /open/ HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET /open/  HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET\t/open/ HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1 \r\n~\r\n", Refused(400)),
    ("GET /open/ HTTP/1.2\r\n~\r\n", Refused(400)),
    ("GET /open/ HTTP/2.0\r\n~\r\n", Refused(400)),
    ("GET /open/\r\n\r\n", Refused(400)),
    ("G@T /open/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    // Targets.
    ("GET https://chat.example.com/open/x HTTP/1.1\r\n~\r\n", Passed("GET /open/x HTTP/1.1", "")),
    ("GET https://other.example/open/ HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET https://u:p@chat.example.com/open/ HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET ftp://chat.example.com/open/ HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET * HTTP/1.1\r\n~\r\n", Refused(400)),
    ("OPTIONS * HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET chat.example.com:443 HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET open/ HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET /open/#x HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET /open/../room/blue HTTP/1.1\r\n~\r\n", Refused(400)),
    ("GET /open/%2e%2e/x HTTP/1.1\r\n~\r\n", Refused(400)),
    ("CONNECT chat.example.com:443 HTTP/1.1\r\n~\r\n", Refused(400)),
    ("TRACE /open/ HTTP/1.1\r\n~\r\n", Refused(501)),
    // Hosts.
    ("GET /open/ HTTP/1.1\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\n~~\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\nHost: a b\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\nHost: u@chat.example.com\r\n\r\n", Refused(400)),
    ("GET /open/ HTTP/1.1\r\nHost: chat.example.com/x\r\n\r\n", Refused(400)),
    // Other protocols.
    (
        "GET /open/ HTTP/1.1\r\n~Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
        Refused(501),
    ),
    ("GET /open/ HTTP/1.1\r\n~Upgrade: unknown\r\nConnection: Upgrade\r\n\r\n", Refused(501)),
    ("GET /open/ HTTP/1.1\r\n~Upgrade: websocket\r\n\r\n", Refused(426)),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused(400)),
    // Chunks.
    (
        "POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\n\r\n",
        Passed("POST /open/ HTTP/1.1", "body"),
    ),
    (
        "POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n004\r\nbody\r\n00\r\n\r\n",
        Passed("POST /open/ HTTP/1.1", "body"),
    ),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\nbody\r\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4 \r\nbody\r\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n 4\r\nbody\r\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4;x\nbody\r\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbodyXX0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n10000000000000004\r\nbody\r\n0\r\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-A: b\n\r\n", Broken),
    ("POST /open/ HTTP/1.1\r\n~Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-A b\r\n\r\n", Broken),
];

fn check(upstream: &Upstream, client: &mut Client, request: &str, fate: Fate) {
    let bytes = request.replace('~', HOST);
    client.send(bytes.as_bytes());
    match fate {
        Refused(status) => {
            assert_eq!(client.response().head.status(), status, "{request:?}");
            upstream.assert_untouched();
        }
        Passed(line, body) => {
            let mut server = upstream.accept();
            let asked = server.message();
            assert_eq!((asked.head.first_line.as_str(), asked.body.as_str()), (line, body), "{request:?}");
            assert!(asked.trailers.is_empty());
            server.respond("Connection: close\r\n", "");
            assert_eq!(client.message().head.status(), 200, "{request:?}");
        }
        Broken => {
            let mut server = upstream.accept();
            assert_eq!(client.response().head.status(), 400, "{request:?}");
            let (got, _) = server.rest();
            assert!(!got.ends_with(b"0\r\n\r\n"), "{request:?}: {:?}", String::from_utf8_lossy(&got));
        }
    }
}

/// As the first request of a connection.
#[test]
fn requests_that_others_read_differently_are_rejected() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").start(&upstream);
    for (request, fate) in TABLE {
        check(&upstream, &mut Client::connect(&gate), request, *fate);
    }
    // Each broken body is logged as such.
    for _ in TABLE.iter().filter(|(_, fate)| matches!(fate, Broken)) {
        while gate.log.next("refused")["rule"] != "body" {}
    }
}

/// As the second one, behind another request in the same bytes.
#[test]
fn requests_behind_another_are_read_as_strictly() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").start(&upstream);
    for (request, fate) in TABLE {
        let mut client = Client::connect(&gate);
        let first = format!("POST /open/first HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\nfirst");
        client.send(&[first.as_bytes(), &request.as_bytes()[..1]].concat());
        let mut server = upstream.accept();
        assert_eq!(server.message().body, "first");
        server.respond("Connection: close\r\n", "");
        assert_eq!(client.message().head.status(), 200);
        check(&upstream, &mut client, &request[1..], *fate);
    }
}
