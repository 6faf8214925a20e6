//! Every rejection of a request (DESIGN section 5): the response, the single log line, and that the upstream is not
//! contacted.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tollgate::policy::framing::FramingError;
use tollgate::policy::logout::LogoutError;
use tollgate::policy::path::{PATH_MAX_BYTES, PATH_MAX_SEGMENTS, PathError};
use tollgate::policy::rejection::Rejection;
use tollgate::policy::token::TokenError;
use tollgate::ws::handshake::{AnswerError, CONNECTION_NAMES_MAX, EXTENSIONS_MAX, OpeningError, PROTOCOLS_MAX};

use crate::support::every::every;
use crate::support::gate::Gate;
use crate::support::pki::{good_token, token, token_with};
use crate::support::request::Request;
use crate::support::session::{Client, ErrorResponse, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, refusing, switching};
use crate::support::wire::Head;

/// A request that is rejected, and the circumstances.
struct Case {
    request: Request,
    play: Play,
}

/// The circumstances of a request.
enum Play {
    /// The default setup; the upstream sees no connection.
    Nothing,
    /// Another setup; the upstream sees no connection.
    SetUp(Setup),
    /// Another setup, in which a session of the same request is already open.
    Again(Setup),
    /// The proxy starts to drain after the TLS handshake.
    Draining,
    /// No server listens at the upstream's address.
    Nowhere,
    /// The backlog of the server is full.
    QueueFull,
    /// The server accepts the connection and sends no response.
    Silent,
    /// As `Silent`, while another request already uses up `max_pending_requests`.
    Pending,
    /// The server sends these bytes, made from the request.
    Answers(fn(&Head) -> Vec<u8>),
}

/// A route with a refresh path.
const REFRESHED: &str = "[[route]]\nname = \"live\"\npath = \"/live/{room}\"\nrefresh_path = \"/live/refresh\"\n\
                         upstream = \"main\"\nauth = \"users\"\n";

/// A route that sends a part of the path in a header.
const NAMED: &str = "[[route]]\nname = \"named\"\npath = \"/named/{room}\"\nupstream = \"main\"\nauth = \"none\"\n\
                     set_headers = { X-Room = \"{room}\" }\n";

fn case(request: Request, play: Play) -> Case {
    Case { request, play }
}

fn plain(requests: impl IntoIterator<Item = Request>) -> Vec<Case> {
    requests.into_iter().map(|request| case(request, Play::Nothing)).collect()
}

fn open() -> Request {
    Request::to("/open/")
}

fn room() -> Request {
    Request::to("/room/blue")
}

/// Returns the status from the table of the design.
fn status(rejection: Rejection) -> u16 {
    match rejection {
        Rejection::Opening(OpeningError::NotUpgrade | OpeningError::Version) => 426,
        Rejection::Opening(_) | Rejection::Host | Rejection::Path(_) => 400,
        Rejection::NoToken | Rejection::TokenAmbiguous | Rejection::Token(_) | Rejection::Revoked => 401,
        Rejection::Logout(LogoutError::Busy | LogoutError::NoKeys) => 503,
        Rejection::Logout(_) => 400,
        Rejection::Address | Rejection::Origin | Rejection::Claims => 403,
        Rejection::NoRoute => 404,
        Rejection::Misdirected => 421,
        Rejection::Method => 405,
        Rejection::UpgradeRate { .. } | Rejection::AddressSessions | Rejection::SubjectSessions => 429,
        Rejection::RequestRate { .. } => 429,
        Rejection::Framing(_) => 400,
        Rejection::BodyTooLarge => 413,
        Rejection::BodyTimeout => 408,
        Rejection::Unsupported => 501,
        Rejection::Unreachable | Rejection::UpstreamMalformed | Rejection::Answer(_) => 502,
        Rejection::ClusterUnavailable
        | Rejection::Full
        | Rejection::RequestsFull
        | Rejection::AddressRequests
        | Rejection::Memory
        | Rejection::Draining
        | Rejection::UpstreamBusy { .. }
        | Rejection::UpstreamFull { .. }
        | Rejection::UpstreamRate { .. } => 503,
        Rejection::AuthUnavailable | Rejection::AuthBusy | Rejection::KeysUnavailable { .. } => 503,
        Rejection::UpstreamTimeout => 504,
        Rejection::UpstreamStatus(status) | Rejection::AuthStatus(status) => status.as_u16(),
        Rejection::ClientGone => 499,
        Rejection::Head { too_large } => {
            if too_large {
                431
            } else {
                400
            }
        }
    }
}

/// Returns the cases that provoke `rejection`. The match is exhaustive, so that every rejection is considered.
fn cases(rejection: Rejection) -> Vec<Case> {
    let setup = Setup::new;
    match rejection {
        Rejection::Opening(error) => opening_cases(error),
        Rejection::Answer(error) => answer_cases(error),
        Rejection::Path(error) => path_cases(error),
        Rejection::Token(error) => token_cases(error),
        Rejection::UpstreamStatus(status) => vec![case(open(), upstream_status(status.as_u16()))],
        Rejection::Host => plain([
            open().replacing("Host: chat example.com"),
            open().replacing("Host: chat.example.com, other.example"),
            open().replacing("Host: "),
        ]),
        Rejection::NoRoute => plain([Request::to("/elsewhere"), Request::to("/opener"), Request::to("/room/blue/")]),
        Rejection::Method => {
            let setup = || setup().more(REFRESHED);
            let get = Request::to("/live/refresh");
            [get.clone(), get.first_line("PATCH /live/refresh HTTP/1.1")]
                .map(|request| case(request, Play::SetUp(setup())))
                .into()
        }
        Rejection::Address => {
            vec![case(open(), Play::SetUp(setup().route("deny_addresses = [\"127.0.0.0/8\"]")))]
        }
        Rejection::UpgradeRate { .. } => vec![case(open(), Play::Again(setup().server("upgrade_rate = \"1/m\"")))],
        Rejection::Origin => {
            let setup = || setup().route("origins = [\"https://good.example\"]\nmissing_origin = \"refuse\"");
            [open(), open().with("Origin: https://evil.example"), open().with("Origin: null")]
                .map(|request| case(request, Play::SetUp(setup())))
                .into()
        }
        Rejection::NoToken => plain([
            room(),
            // A token in a source that `token_from` does not list.
            Request::to(&format!("/room/blue?token={}", good_token())),
        ]),
        Rejection::TokenAmbiguous => {
            let setup = || {
                Setup::new()
                    .auth(
                        "token_from = [\"header\", \"cookie:session\", \"query:token\", \"subprotocol_prefix:token.\"]",
                    )
                    .route("origins = [\"https://a.example\"]")
            };
            let (good, other) = (good_token(), token(&json!({ "sub": "eve" })));
            let requests = [
                // `Authorization` is not a list header.
                room().bearer(&good).bearer(&good),
                room().with(&format!("Cookie: session={good}; session={other}")),
                room().with(&format!("Cookie: session={good}")).with("Cookie: session="),
                Request::to(&format!("/room/blue?token={good}&token={other}")),
                room().with(&format!("Sec-WebSocket-Protocol: token.{good}, token.{other}")),
            ];
            requests.map(|request| case(request, Play::SetUp(setup()))).into()
        }
        Rejection::Claims => {
            // A claim that cannot be forwarded is rejected, not treated as absent.
            let mangled = [json!("zoë"), json!(" root"), json!({ "id": "ada" })];
            let mangled = mangled.map(|subject| room().bearer(&token(&json!({ "sub": subject }))));
            let other =
                [Request::to("/room/red").bearer(&good_token()), room().bearer(&token(&json!({ "room": null })))];
            plain(other.into_iter().chain(mangled))
        }
        Rejection::AddressSessions => vec![case(open(), Play::Again(setup().limits("sessions_per_address = 1")))],
        Rejection::SubjectSessions => {
            let setup = setup().room_limits("sessions_per_subject = 1");
            vec![case(room().bearer(&good_token()), Play::Again(setup))]
        }
        Rejection::Full => vec![case(open(), Play::Again(setup().server("max_sessions = 1")))],
        // The smallest limit is more memory than the process has without a load:
        // `sessions_are_rejected_while_the_memory_exceeds_memory_max` covers this.
        Rejection::Memory => Vec::new(),
        Rejection::KeysUnavailable { .. } => {
            // Nothing listens on this port.
            let setup = setup().auth("jwks_url = \"http://127.0.0.1:1/keys\"");
            vec![case(room().bearer(&good_token()), Play::SetUp(setup))]
        }
        Rejection::Draining => vec![case(open(), Play::Draining)],
        Rejection::Unreachable => vec![
            case(open(), Play::Nowhere),
            case(open(), Play::Answers(|_| Vec::new())),
            case(open(), Play::Answers(|_| b"HTTP/1.1 101 Switching Protocols\r\nUpg".to_vec())),
        ],
        Rejection::UpstreamMalformed => [
            |_: &Head| b"SSH-2.0-OpenSSH\r\n".to_vec(),
            |_: &Head| b"ICY 200 OK\r\n\r\n".to_vec(),
            |_: &Head| b"HTTP/3.0 200 OK\r\n\r\n".to_vec(),
            |_: &Head| b"HTTP/1.1 2xx OK\r\n\r\n".to_vec(),
            |_: &Head| b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_vec(),
            |_: &Head| b"HTTP/1.1 200 OK\r\nna me: value\r\n\r\n".to_vec(),
            |_: &Head| format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "a".repeat(64 << 10)).into_bytes(),
            |_: &Head| b"\x16\x03\x03\x00\x02\x02\x28".to_vec(),
        ]
        .map(|answer: fn(&Head) -> Vec<u8>| case(open(), Play::Answers(answer)))
        .into(),
        Rejection::UpstreamBusy { .. } => vec![case(open(), Play::Pending)],
        Rejection::UpstreamFull { .. } => {
            let server = "servers = [{ address = \"127.0.0.1:1\", drain = true }]\n";
            let waits = |key: &str| case(open(), Play::SetUp(Setup::new().upstream(&format!("{server}{key}"))));
            vec![waits("queue_max = 0"), waits("queue_timeout = \"100ms\"")]
        }
        Rejection::UpstreamRate { .. } => {
            let again = |key: &str| {
                let setup = Setup::new().upstream(&format!("admit_rate = \"1/h\"\n{key}"));
                case(open(), Play::Again(setup))
            };
            vec![again("queue_max = 0"), again("queue_timeout = \"100ms\"")]
        }
        Rejection::UpstreamTimeout => vec![case(open(), Play::QueueFull), case(open(), Play::Silent)],
        // `revocation` covers this.
        Rejection::Revoked => Vec::new(),
        // `logout` covers these.
        Rejection::Logout(_) => Vec::new(),
        // `forward` has its own file, with a service that decides.
        Rejection::AuthStatus(_) | Rejection::AuthUnavailable => Vec::new(),
        // The suite `cluster` covers this, with a server.
        Rejection::ClusterUnavailable => Vec::new(),
        // `requests_that_wait_leave_descriptors_and_places_to_others` covers this.
        Rejection::AuthBusy => Vec::new(),
        // `redirect` covers this.
        Rejection::Misdirected => Vec::new(),
        // `http_bodies`, `http_clients`, `http_connections` and `http_framing` cover these, on a route with `http = true`.
        Rejection::RequestRate { .. }
        | Rejection::RequestsFull
        | Rejection::AddressRequests
        | Rejection::Unsupported
        | Rejection::Framing(_)
        | Rejection::BodyTooLarge
        | Rejection::BodyTimeout => Vec::new(),
        // hyper answers these itself, in its own form: `malformed_heads_are_rejected` covers them.
        Rejection::Head { .. } => Vec::new(),
        // No client is left to read a response:
        // `a_client_that_disconnects_before_its_response_releases_its_limits` covers this.
        Rejection::ClientGone => Vec::new(),
    }
}

fn opening_cases(error: OpeningError) -> Vec<Case> {
    let first_line = |line| open().first_line(line);
    plain(match error {
        OpeningError::NotUpgrade => vec![
            first_line("GET /open/ HTTP/1.0"),
            open().without("Upgrade"),
            open().without("Connection"),
            open().replacing("Upgrade: h2c"),
            open().replacing("Connection: keep-alive"),
        ],
        OpeningError::Version => vec![
            open().replacing("Sec-WebSocket-Version: 8"),
            open().without("Sec-WebSocket-Version"),
            open().replacing("Sec-WebSocket-Version: 13, 8"),
        ],
        OpeningError::Method => vec![first_line("POST /open/ HTTP/1.1"), first_line("HEAD /open/ HTTP/1.1")],
        OpeningError::Body => vec![open().with("Content-Length: 5"), open().with("Transfer-Encoding: chunked")],
        OpeningError::Host => vec![open().without("Host"), open().with("Host: other.example")],
        OpeningError::Target => {
            vec![first_line("GET * HTTP/1.1"), first_line("GET ftp://chat.example.com/open/ HTTP/1.1")]
        }
        OpeningError::Key => vec![
            open().without("Sec-WebSocket-Key"),
            open().replacing("Sec-WebSocket-Key: c2hvcnQ="),
            open().with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        OpeningError::Protocol => {
            vec![open().with("Sec-WebSocket-Protocol: chat, chat"), open().with("Sec-WebSocket-Protocol: a b")]
        }
        OpeningError::Extensions => vec![open().with("Sec-WebSocket-Extensions: ; server_no_context_takeover")],
        OpeningError::Origin => vec![open().with("Origin: https://a.example").with("Origin: https://b.example")],
        OpeningError::TooManyItems => {
            let list = |count| (0..count).map(|n| format!("a{n}")).collect::<Vec<_>>().join(",");
            vec![
                open().with(&format!("Sec-WebSocket-Protocol: {}", list(PROTOCOLS_MAX + 1))),
                open().with(&format!("Sec-WebSocket-Protocol: {}", list(2_000))),
                open().with(&format!("Sec-WebSocket-Extensions: {}", list(EXTENSIONS_MAX + 1))),
                open().with(&format!("Connection: {}", list(CONNECTION_NAMES_MAX))),
                open().with(&format!("Connection: \"{}\"", list(CONNECTION_NAMES_MAX))),
            ]
        }
    })
}

fn path_cases(error: PathError) -> Vec<Case> {
    let to = |paths: &[&str]| plain(paths.iter().map(|path| Request::to(path)));
    match error {
        // A target without a leading slash is rejected earlier; hyper stops at a space and takes `#` for the end.
        PathError::NotAbsolute | PathError::Delimiter => Vec::new(),
        PathError::TooLong => to(&[&format!("/open/{}", "a".repeat(PATH_MAX_BYTES))]),
        PathError::TooManySegments => to(&[&format!("/open/{}", "a/".repeat(PATH_MAX_SEGMENTS))]),
        PathError::BadEscape => to(&["/open/%zz", "/open/%u002f", "/open/%"]),
        PathError::EncodedSlash => to(&["/open/a%2fb", "/open%2F"]),
        PathError::Backslash => to(&["/open/%5c..%5croom"]),
        PathError::Control => to(&["/open/%00", "/open/a%0d%0aX:y"]),
        PathError::NotUtf8 => to(&["/open/%c0%af", "/open/%ff"]),
        PathError::DotSegment => to(&["/open/../room/blue", "/open/%2e%2e/room/blue", "/open/."]),
        PathError::DotParameter => to(&["/open/..;/room/blue"]),
        PathError::EmptySegment => to(&["//open/", "/open//a"]),
        PathError::EncodedTwice => to(&["/open/%252f", "/open/%252e%252e"]),
        PathError::HeaderValue => {
            let setup = || Setup::new().more(NAMED);
            ["/named/caf%C3%A9", "/named/%20"].map(|path| case(Request::to(path), Play::SetUp(setup()))).into()
        }
    }
}

/// Returns one case for each kind of invalid token; the unit tests of tokens cover all of them.
fn token_cases(error: TokenError) -> Vec<Case> {
    let good = good_token();
    let bearer = match error {
        TokenError::TooLong => token(&json!({ "pad": "a".repeat(8192) })),
        TokenError::NotCompact => good.replacen('.', "", 1),
        TokenError::AlgorithmUnknown => format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap()),
        TokenError::Signature => {
            token(&json!({ "sub": "eve" })).rsplit_once('.').unwrap().0.to_owned()
                + "."
                + good.rsplit('.').next().unwrap()
        }
        TokenError::ExpiresMissing => token(&json!({ "exp": null })),
        TokenError::Expired => token(&json!({ "exp": 1_700_000_000 })),
        TokenError::NotYetValid => token(&json!({ "nbf": 33_000_000_000_u64 })),
        TokenError::Issuer => token(&json!({ "iss": "https://evil.example/" })),
        TokenError::Audience => token(&json!({ "aud": "other" })),
        _ => return Vec::new(),
    };
    plain([room().bearer(&bearer)])
}

fn answer_cases(error: AnswerError) -> Vec<Case> {
    let offering = open().with("Sec-WebSocket-Protocol: chat");
    let answers: Vec<fn(&Head) -> Vec<u8>> = match error {
        // Any other status is forwarded unchanged.
        AnswerError::Status => vec![],
        AnswerError::NotUpgrade => vec![
            |asked| without(&switching(asked, &[]), "Upgrade: websocket\r\n"),
            |asked| without(&switching(asked, &[]), "Connection: Upgrade\r\n"),
            // HTTP/1.0 has no Upgrade.
            |asked| [b"HTTP/1.0", &switching(asked, &[])[8..]].concat(),
        ],
        AnswerError::Accept => vec![
            // The accept value for the client's key, which the upstream does not receive.
            |_| {
                let key = Head { first_line: String::new(), fields: vec![key_field()] };
                switching(&key, &[])
            },
            |asked| switching(asked, &["Sec-WebSocket-Accept: again"]),
        ],
        AnswerError::Protocol => vec![|asked| switching(asked, &["Sec-WebSocket-Protocol: other"]), |asked| {
            switching(asked, &["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"])
        }],
        AnswerError::Extension => vec![|asked| switching(asked, &["Sec-WebSocket-Extensions: permessage-deflate"])],
    };
    answers.into_iter().map(|answer| case(offering.clone(), Play::Answers(answer))).collect()
}

fn key_field() -> (String, String) {
    ("sec-websocket-key".to_owned(), crate::support::request::KEY.to_owned())
}

fn without(answer: &[u8], line: &str) -> Vec<u8> {
    String::from_utf8(answer.to_vec()).unwrap().replace(line, "").into_bytes()
}

const UPSTREAM_BODY: &str = "The upstream's own body.";

fn upstream_status(status: u16) -> Play {
    Play::Answers(match status {
        302 => |_| answer("302 Found", "Location: https://login.example.com/\r\n", UPSTREAM_BODY),
        403 => |_| answer("403 Forbidden", "X-Request-Id: theirs\r\n", UPSTREAM_BODY),
        426 => |_| answer("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", UPSTREAM_BODY),
        other => unreachable!("{other}"),
    })
}

/// Returns the bytes of a response with a body.
pub fn answer(status: &str, lines: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nX-Kept: yes\r\nKeep-Alive: 5\r\n{lines}\r\n{body}")
        .into_bytes()
}

/// Runs all cases of `rejections`.
fn check(rejections: impl IntoIterator<Item = Rejection>) {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut on_plain = 0;
    for rejection in rejections {
        for Case { request, play } in cases(rejection) {
            let what = format!("{rejection:?}: {request:?}");
            if let Play::Nothing = play {
                let response = Client::connect(&gate).ask(&request);
                check_refusal(&what, rejection, &response, &gate);
                upstream.assert_untouched();
                on_plain += 1;
            } else {
                run(&what, rejection, &request, play);
            }
        }
    }
    assert_eq!(gate.log.all("refused").len(), on_plain, "one line per rejection");
}

fn run(what: &str, rejection: Rejection, request: &Request, play: Play) {
    let upstream = Upstream::bind();
    match play {
        Play::Nothing => unreachable!("runs on the shared proxy"),
        Play::SetUp(setup) => {
            let gate = setup.start(&upstream);
            check_refusal(what, rejection, &Client::connect(&gate).ask(request), &gate);
            upstream.assert_untouched();
        }
        Play::Again(setup) => {
            let gate = setup.start(&upstream);
            let session = Session::open_with(&gate, &upstream, request, &[]);
            check_refusal(what, rejection, &Client::connect(&gate).ask(request), &gate);
            upstream.assert_untouched();
            session.close();
        }
        Play::Draining => {
            let mut gate = Setup::new().start(&upstream);
            let mut client = Client::connect(&gate);
            gate.drain();
            check_refusal(what, rejection, &client.ask(request), &gate);
            upstream.assert_untouched();
            drop(client);
            assert_eq!(gate.wait_exit().code(), Some(0));
        }
        Play::Nowhere => {
            let (_taken, address) = refusing();
            let gate = Gate::start(Setup::new().to(address));
            let line = check_refusal(what, rejection, &Client::connect(&gate).ask(request), &gate);
            check_names(&line, address);
        }
        Play::QueueFull => {
            let (listener, waiting) = full_queue();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let gate = Gate::start(Setup::new().upstream("connect_timeout = \"100ms\"").to(address));
            let line = check_refusal(what, rejection, &Client::connect(&gate).ask(request), &gate);
            check_names(&line, address);
            drop(waiting);
        }
        Play::Silent => {
            let gate = Setup::new().upstream("response_timeout = \"100ms\"").start(&upstream);
            let line = check_refusal(what, rejection, &Client::connect(&gate).ask(request), &gate);
            check_names(&line, upstream.address());
            let mut server = upstream.accept();
            server.head();
            server.expect_end();
        }
        Play::Pending => {
            let gate = Setup::new().upstream("max_pending_requests = 1").start(&upstream);
            let mut pending = Client::connect(&gate);
            pending.send(&request.bytes());
            let mut server = upstream.accept();
            let asked = server.head();
            check_refusal(what, rejection, &Client::connect(&gate).ask(request), &gate);
            upstream.assert_untouched();
            // The pending request is not affected, and releases its slot with its response.
            server.send(&switching(&asked, &[]));
            assert_eq!(pending.head().status(), 101);
            Session::open_with(&gate, &upstream, request, &[]).close();
        }
        Play::Answers(answer) => {
            let gate = Setup::new().start(&upstream);
            let mut client = Client::connect(&gate);
            client.send(&request.bytes());
            let mut server = upstream.accept();
            let answer = answer(&server.head());
            server.send(&answer);
            drop(server);
            let line = check_refusal(what, rejection, &client.response(), &gate);
            check_names(&line, upstream.address());
        }
    }
}

/// Returns a listener whose backlog is full, and the sockets that fill it.
pub fn full_queue() -> (Socket, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address: SockAddr = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while waiting.len() < 16 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let connected = socket.connect_timeout(&address, Duration::from_millis(200));
        waiting.push(socket);
        if connected.is_err() {
            return (listener, waiting);
        }
    }
    panic!("the backlog does not fill");
}

/// Checks that a log line names this server.
fn check_names(line: &Value, server: SocketAddr) {
    assert_eq!(line["server"], server.to_string(), "{line}");
}

/// Checks that a response has the request id of its log line, once.
pub fn check_id(head: &Head, line: &Value) {
    let ids: Vec<_> = head.fields.iter().filter(|(name, _)| name == "x-request-id").map(|(_, id)| id).collect();
    assert_eq!(ids, [line["request_id"].as_str().expect("an id")], "{head:?}");
}

/// Checks the response and the log line, and returns the line.
fn check_refusal(what: &str, rejection: Rejection, ErrorResponse { head, body }: &ErrorResponse, gate: &Gate) -> Value {
    let status = status(rejection);
    assert_eq!(head.status(), status, "{what}: {head:?}");
    let connection = head.fields.iter().filter(|(name, _)| name == "connection").map(|(_, value)| value.as_str());
    let connection: Vec<&str> = connection.flat_map(|value| value.split(", ")).collect();
    assert!(connection.contains(&"close"), "{what}: {head:?}");

    if let Rejection::UpstreamStatus(_) = rejection {
        assert_eq!(body, UPSTREAM_BODY, "{what}");
        assert_eq!((head.get("X-Kept"), head.get("Keep-Alive")), (Some("yes"), None), "{what}");
        assert_eq!(head.get("Location").is_some(), status == 302, "{what}");
        let upgrade = (status == 426).then_some("websocket");
        assert_eq!(head.get("Upgrade"), upgrade, "{what}");
        assert_eq!(head.get("Sec-WebSocket-Version"), upgrade.map(|_| "13"), "{what}");
        assert_eq!(connection.contains(&"Upgrade"), status == 426, "{what}: {head:?}");
    } else {
        // hyper omits the body of a response to HEAD.
        let is_head = what.contains("HEAD ");
        assert_eq!(body, if is_head { "" } else { rejection.response().body }, "{what}");
        assert_eq!(head.get("Content-Type"), Some("text/plain; charset=utf-8"), "{what}");
        let challenge = match rejection {
            Rejection::NoToken | Rejection::TokenAmbiguous => Some("Bearer"),
            Rejection::Token(_) | Rejection::Revoked => Some("Bearer error=\"invalid_token\""),
            _ => None,
        };
        assert_eq!(head.get("WWW-Authenticate"), challenge, "{what}");
        let upgrade = (status == 426).then_some("websocket");
        assert_eq!(head.get("Upgrade"), upgrade, "{what}");
        assert_eq!(head.get("Sec-WebSocket-Version"), upgrade.map(|_| "13"), "{what}");
        assert_eq!(connection.contains(&"Upgrade"), status == 426, "{what}: {head:?}");
        let retry_after = head.get("Retry-After").map(|secs| secs.parse::<u64>().unwrap());
        assert_eq!(retry_after.is_some(), matches!(status, 429 | 503), "{what}");
        assert!(retry_after.is_none_or(|secs| (1..=61).contains(&secs)), "{what}: {retry_after:?}");
    }

    let line = gate.log.next("refused");
    assert_eq!(line["cause"], rejection.label(), "{what}: {line}");
    assert_eq!(line["rule"].as_str(), rejection.detail(), "{what}: {line}");
    assert_eq!(line["status"], status, "{what}: {line}");
    assert_eq!(line["client"], "127.0.0.1", "{what}: {line}");
    check_id(head, &line);
    line
}

#[test]
fn malformed_handshakes_are_rejected() {
    let errors = every!(OpeningError {
        NotUpgrade,
        Version,
        Method,
        Body,
        Host,
        Target,
        Key,
        Protocol,
        Extensions,
        Origin,
        TooManyItems,
    });
    check(errors.into_iter().map(Rejection::Opening).chain([Rejection::Host]));
}

#[test]
fn ambiguous_paths_are_rejected() {
    let errors = every!(PathError {
        NotAbsolute,
        TooLong,
        TooManySegments,
        Delimiter,
        BadEscape,
        EncodedSlash,
        Backslash,
        Control,
        NotUtf8,
        DotSegment,
        DotParameter,
        EmptySegment,
        EncodedTwice,
        HeaderValue,
    });
    check(errors.into_iter().map(Rejection::Path));
}

#[test]
fn invalid_tokens_are_rejected() {
    let errors = [
        TokenError::TooLong,
        TokenError::NotCompact,
        TokenError::AlgorithmUnknown,
        TokenError::Signature,
        TokenError::ExpiresMissing,
        TokenError::Expired,
        TokenError::NotYetValid,
        TokenError::Issuer,
        TokenError::Audience,
    ];
    check(errors.into_iter().map(Rejection::Token));
}

#[test]
fn invalid_upstream_handshakes_are_rejected() {
    let errors = every!(AnswerError { Status, NotUpgrade, Accept, Protocol, Extension });
    check(errors.into_iter().map(Rejection::Answer));
}

/// Covers the remaining rejections, and one of each kind above, so that the list names every variant.
#[test]
fn every_other_rejection_has_its_response_and_log_line() {
    check(every!(Rejection {
        Head([true, false].map(|too_large| Rejection::Head { too_large })),
        Opening([Rejection::Opening(OpeningError::Key)]),
        Host,
        Path([Rejection::Path(PathError::DotSegment)]),
        NoRoute,
        Misdirected,
        Method,
        Address,
        UpgradeRate([Rejection::UpgradeRate { retry_after_secs: 1 }]),
        RequestRate([Rejection::RequestRate { retry_after_secs: 1 }]),
        Unsupported,
        Framing([Rejection::Framing(FramingError::Host)]),
        BodyTooLarge,
        BodyTimeout,
        Origin,
        NoToken,
        TokenAmbiguous,
        Token([Rejection::Token(TokenError::Expired)]),
        Revoked,
        Logout([Rejection::Logout(LogoutError::Form)]),
        AuthStatus([Rejection::AuthStatus(StatusCode::FORBIDDEN)]),
        AuthUnavailable,
        AuthBusy,
        KeysUnavailable([Rejection::KeysUnavailable { retry_after_secs: 1 }]),
        Claims,
        AddressSessions,
        SubjectSessions,
        ClusterUnavailable,
        Full,
        RequestsFull,
        AddressRequests,
        Memory,
        Draining,
        UpstreamBusy([Rejection::UpstreamBusy { retry_after_secs: 1 }]),
        UpstreamFull([Rejection::UpstreamFull { retry_after_secs: 5 }]),
        UpstreamRate([Rejection::UpstreamRate { retry_after_secs: 30 }]),
        Unreachable,
        UpstreamMalformed,
        UpstreamTimeout,
        Answer([Rejection::Answer(AnswerError::Accept)]),
        UpstreamStatus([302, 403, 426].map(|status| Rejection::UpstreamStatus(status.try_into().unwrap()))),
        ClientGone,
    }));
}

/// A claim that cannot be represented is rejected only by the routes that use it, not by others with the same `[auth]`.
#[test]
fn malformed_claims_are_rejected_only_by_routes_that_use_them() {
    let upstream = Upstream::bind();
    let route = |name: &str, asks: &str| {
        format!("[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"main\"\nauth = \"users\"\n{asks}\n")
    };
    let routes = route("asks-nothing", "")
        + &route("requires", "require = { level = \"1\" }")
        + &route("forwards", "forward_claims = { nick = \"X-Nick\", \"o.p\" = \"X-P\" }");
    let gate = Setup::new().more(&routes).start(&upstream);
    let table = [
        (r#""level":1e400"#, "requires", "level"),
        (r#""level":[1,1e400]"#, "requires", "level"),
        (r#""level":"\ud800""#, "requires", "level"),
        (r#""nick":"\ud800""#, "forwards", "nick"),
        (r#""o":{"p":1,"p":2}"#, "forwards", "o.p"),
    ];
    for (members, asking, claim) in table {
        let bearer = token_with(members);
        Session::open_with(&gate, &upstream, &Request::to("/asks-nothing").bearer(&bearer), &[]).close();
        let response = Client::connect(&gate).ask(&Request::to(&format!("/{asking}")).bearer(&bearer));
        assert_eq!(response.head.status(), 403, "{members}");
        let line = gate.log.next("refused");
        assert_eq!((&line["cause"], &line["claim"]), (&json!("claims"), &json!(claim)), "{line}");
        upstream.assert_untouched();
    }
    for members in [r#""nick":"a","nick":"a""#, r#""nbf":1e400"#] {
        let response = Client::connect(&gate).ask(&Request::to("/asks-nothing").bearer(&token_with(members)));
        assert_eq!(response.head.status(), 401, "{members}");
    }
}

/// Some issuers number their users: each number is a subject, as a JSON number or as a string.
#[test]
fn numeric_subjects_are_distinct() {
    let upstream = Upstream::bind();
    let gate = Setup::new().room_limits("sessions_per_subject = 1").start(&upstream);
    let room = |subject: Value| Request::to("/room/blue").bearer(&token(&json!({ "sub": subject })));
    let subjects = [json!(1), json!(2), json!(1.5), json!(true), json!(u64::MAX)];
    let sessions: Vec<_> =
        subjects.iter().map(|subject| Session::open_with(&gate, &upstream, &room(subject.clone()), &[])).collect();
    for (subject, session) in subjects.iter().zip(&sessions) {
        assert_eq!(session.asked.get("X-User-Id"), Some(subject.to_string().as_str()));
    }
    for taken in [json!(2), json!("1"), json!("true")] {
        assert_eq!(Client::connect(&gate).ask(&room(taken.clone())).head.status(), 429, "{taken}");
    }
    sessions.into_iter().for_each(Session::close);
}

/// `token_max_size` and the `head_max_size` of the listener limit the length of a token.
#[test]
fn token_max_size_limits_tokens() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("head_max_size = \"64KiB\"").auth("token_max_size = \"32KiB\"").start(&upstream);
    let long = |bytes: usize| token(&json!({ "pad": "a".repeat(bytes) }));
    let session = Session::open_with(&gate, &upstream, &room().bearer(&long(20_000)), &[]);
    let response = Client::connect(&gate).ask(&room().bearer(&long(25_000)));
    assert_eq!(response.head.status(), 401);
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["rule"]), (&json!("token"), &json!("too_long")), "{line}");
    session.close();
}
