//! Forward authentication: the service is asked about each request, and again about open sessions.

use serde_json::json;

use crate::refusals::{answer, check_id};
use crate::support::gate::Gate;
use crate::support::pki::good_token;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream};
use crate::support::wire::Head;

/// Returns a setup whose routes ask this service. `lines` are further keys of the section.
fn asking(service: &Upstream, lines: &str) -> Setup {
    let section = format!(
        "[auth.sso]\nkind = \"forward\"\nurl = \"http://{}/auth?x=1\"\n\
         response_headers = [\"X-Auth-Request-User\", \"X-Auth-Request-Groups\", \"Authorization\"]\n\
         subject_header = \"X-Auth-Request-User\"\n{lines}",
        service.address()
    );
    Setup::new()
        .route("auth = \"sso\"\nrequire = {}\nforward_claims = {}\norigins = [\"https://a.example\"]")
        .more(&section)
}

fn open() -> Request {
    Request::to("/open/?room=blue").with("Origin: https://a.example").with("Cookie: session=abc")
}

const ADA: &str = "X-Auth-Request-User: ada\r\nX-Auth-Request-Groups: dev,admin\r\n";

/// Sends a request and answers the service's part of it.
fn ask(gate: &Gate, service: &mut Service<'_>, request: &Request, reply: &[u8]) -> (Client, Head) {
    let mut client = Client::connect(gate);
    client.send(&request.bytes());
    let asked = service.reply(reply);
    (client, asked)
}

/// The service, which answers over connections that the proxy may reuse.
struct Service<'a> {
    listener: &'a Upstream,
    connection: Option<Server>,
}

impl<'a> Service<'a> {
    fn new(listener: &'a Upstream) -> Self {
        Self { listener, connection: None }
    }

    /// Reads one request on a new connection, and answers it.
    fn reply(&mut self, reply: &[u8]) -> Head {
        let mut connection = self.listener.accept();
        let asked = connection.head();
        connection.send(reply);
        self.connection = Some(connection);
        asked
    }
}

fn admitting(lines: &str) -> Vec<u8> {
    replying("200 OK", lines, "")
}

/// Returns a response after which the connection closes, so that each request has its own.
fn replying(status: &str, lines: &str, body: &str) -> Vec<u8> {
    answer(status, &format!("Connection: close\r\n{lines}"), body)
}

/// Completes the session of a client whose request the service has admitted.
fn complete(mut client: Client, upstream: &Upstream) -> Session {
    let mut server = upstream.accept();
    let asked = server.open(&[]);
    let answer = client.head();
    assert_eq!(answer.status(), 101, "{answer:?}");
    Session { client, server, asked, answer }
}

#[test]
fn a_service_that_admits_writes_the_headers_of_the_upstream() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "").start(&upstream);
    let mut service = Service::new(&listener);
    let request = open()
        .with("Authorization: Basic c2VjcmV0")
        .with("X-Auth-Request-User: root")
        .with("X_Auth_Request_Groups: root")
        .with("X-Forwarded-Uri: /elsewhere")
        .with("Connection: X-Auth-Request-User");
    let lines = format!("{ADA}Authorization: Bearer upstream-token\r\nSet-Cookie: session=new; Secure\r\n");
    let (client, asked) = ask(&gate, &mut service, &request, &admitting(&lines));
    assert_eq!(asked.first_line, "GET /auth?x=1 HTTP/1.1");
    let expected = [
        ("Host", Some(listener.address().to_string())),
        ("Cookie", Some("session=abc".to_owned())),
        ("Authorization", Some("Basic c2VjcmV0".to_owned())),
        ("Origin", Some("https://a.example".to_owned())),
        ("X-Forwarded-For", Some("127.0.0.1".to_owned())),
        ("X-Forwarded-Proto", Some("https".to_owned())),
        ("X-Forwarded-Host", Some("chat.example.com".to_owned())),
        ("X-Forwarded-Method", Some("GET".to_owned())),
        ("X-Forwarded-Uri", Some("/open/?room=blue".to_owned())),
        ("X-Original-Method", Some("GET".to_owned())),
        ("X-Original-Url", Some("https://chat.example.com/open/?room=blue".to_owned())),
        ("Upgrade", None),
        ("Sec-WebSocket-Key", None),
        ("X-Auth-Request-User", None),
        ("Content-Length", None),
    ];
    for (name, value) in expected {
        assert_eq!(asked.get(name), value.as_deref(), "{name}");
    }
    let session = complete(client, &upstream);
    assert_eq!(session.asked.get("X-Auth-Request-User"), Some("ada"));
    assert_eq!(session.asked.get("X-Auth-Request-Groups"), Some("dev,admin"));
    assert_eq!(session.asked.get("X_Auth_Request_Groups"), None);
    assert_eq!(session.asked.get("Authorization"), Some("Bearer upstream-token"));
    assert_eq!(session.answer.get("Set-Cookie"), Some("session=new; Secure"));
    session.close();
    assert_eq!(gate.log.next("session ended")["subject"], "ada");
}

#[test]
fn a_rejection_of_the_service_is_passed_back() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "").start(&upstream);
    let mut service = Service::new(&listener);
    for (status, lines) in [
        ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"a\"\r\n"),
        ("403 Forbidden", ""),
        ("302 Found", "Location: https://login.example.com/\r\nSet-Cookie: csrf=1\r\n"),
    ] {
        let (mut client, _) = ask(&gate, &mut service, &open(), &replying(status, lines, "the service's body"));
        let response = client.response();
        assert_eq!(response.head.status().to_string(), status[..3]);
        assert_eq!((response.body.as_str(), response.head.get("X-Kept")), ("the service's body", Some("yes")));
        assert_eq!(response.head.get("Keep-Alive"), None);
        for line in lines.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            assert_eq!(response.head.get(name), Some(value));
        }
        let line = gate.log.next("refused");
        assert_eq!((&line["cause"], &line["route"]), (&json!("auth_status"), &json!("open")), "{line}");
        assert_eq!(line["auth"], "sso", "{line}");
        check_id(&response.head, &line);
    }
    upstream.assert_untouched();
}

/// A server error, a status that is not a decision, an answer that cannot be used, silence, and no server.
#[test]
fn a_service_without_a_decision_rejects_the_client_for_now() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "timeout = \"100ms\"").start(&upstream);
    let mut service = Service::new(&listener);
    let twice = format!("{ADA}{ADA}");
    let large = format!("X-Auth-Request-Groups: {}\r\n", "a".repeat(9_000));
    let replies = [
        replying("500 Internal Server Error", "", ""),
        replying("404 Not Found", "", ""),
        replying("429 Too Many Requests", "", ""),
        admitting(&twice),
        admitting(&large),
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "a".repeat(64 << 10)).into_bytes(),
        Vec::new(),
    ];
    for reply in replies {
        let (mut client, _) = ask(&gate, &mut service, &open(), &reply);
        expect_unavailable(&gate, &mut client);
    }
    drop(service);
    drop(listener);
    let mut client = Client::connect(&gate);
    client.send(&open().bytes());
    expect_unavailable(&gate, &mut client);
    upstream.assert_untouched();
}

fn expect_unavailable(gate: &Gate, client: &mut Client) {
    let response = client.response();
    assert_eq!((response.head.status(), response.head.get("Retry-After")), (503, Some("5")));
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["level"]), (&json!("auth_unavailable"), &json!("WARN")), "{line}");
    assert_eq!(line["auth"], "sso", "{line}");
    assert!(line["detail"].is_string(), "{line}");
}

#[test]
fn an_answer_is_reused_only_for_the_same_headers() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "cache_for = \"1h\"").start(&upstream);
    let mut service = Service::new(&listener);
    let (client, _) = ask(&gate, &mut service, &open(), &admitting(ADA));
    complete(client, &upstream).close();
    let again = Session::open_with(&gate, &upstream, &open(), &[]);
    assert_eq!(again.asked.get("X-Auth-Request-User"), Some("ada"));
    again.close();
    listener.assert_untouched();
    for other in [open().replacing("Cookie: session=other"), open().first_line("GET /open/?room=red HTTP/1.1")] {
        let (mut client, _) = ask(&gate, &mut service, &other, &replying("403 Forbidden", "", ""));
        assert_eq!(client.response().head.status(), 403);
    }
}

#[test]
fn the_claims_of_an_answer_must_meet_the_conditions_of_the_route() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let rules = "auth = \"sso\"\nrequire = { \"x-auth-request-groups\" = \"admin\" }\n\
                 forward_claims = { \"X-Auth-Request-User\" = \"X-User-Id\" }\norigins = [\"https://a.example\"]";
    let gate = Setup { route: format!("{rules}\n"), ..asking(&listener, "") }.start(&upstream);
    let mut service = Service::new(&listener);
    let (client, _) = ask(&gate, &mut service, &open(), &admitting(ADA));
    let session = complete(client, &upstream);
    assert_eq!(session.asked.get("X-User-Id"), Some("ada"));
    session.close();
    let other = open().replacing("Cookie: session=other");
    let (mut client, _) = ask(&gate, &mut service, &other, &admitting("X-Auth-Request-User: eve\r\n"));
    assert_eq!(client.response().head.status(), 403);
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["subject"]), (&json!("claims"), &json!("eve")), "{line}");
    assert_eq!(line["auth"], "sso", "{line}");
}

/// A token that the first section recognises is not shown to the service, even if it is invalid.
#[test]
fn a_service_decides_only_without_a_token_of_an_earlier_section() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let setup = asking(&listener, "");
    let gate = Setup { route: setup.route.replace("\"sso\"", "[\"users\", \"sso\"]"), ..setup }.start(&upstream);
    let session = Session::open_with(&gate, &upstream, &open().bearer(&good_token()), &[]);
    assert_eq!(session.asked.get("Authorization"), None);
    session.close();
    assert_eq!(Client::connect(&gate).ask(&open().bearer("a.b.c")).head.status(), 401);
    listener.assert_untouched();
    let (client, _) = ask(&gate, &mut Service::new(&listener), &open(), &admitting(ADA));
    complete(client, &upstream).close();
}

#[test]
fn a_session_ends_when_the_service_no_longer_admits_it() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "recheck_interval = \"1s\"").start(&upstream);
    let replies = [
        (replying("401 Unauthorized", "", ""), "a logout"),
        (replying("302 Found", "Location: /login\r\n", ""), "a redirection to the login"),
        (admitting("X-Auth-Request-User: eve\r\n"), "another user"),
    ];
    for (reply, what) in replies {
        let mut service = Service::new(&listener);
        let (client, first) = ask(&gate, &mut service, &open().replacing(&format!("Cookie: {what}")), &admitting(ADA));
        let session = complete(client, &upstream);
        // The session stays open while there is no decision, and while the answer is the same.
        service.reply(&replying("500 Internal Server Error", "", ""));
        service.reply(&admitting(ADA));
        let again = service.reply(&reply);
        assert_eq!(
            (again.get("Cookie"), again.get("X-Forwarded-Uri")),
            (first.get("Cookie"), first.get("X-Forwarded-Uri"))
        );
        let Session { mut client, mut server, .. } = session;
        assert_eq!(client.expect_close(1008), "no longer admitted");
        assert_eq!(server.expect_close(1008), "no longer admitted");
    }
}

#[test]
fn a_slow_service_delays_the_checks_of_its_own_sessions_alone() {
    let (upstream, slow, other) = (Upstream::bind(), Upstream::bind(), Upstream::bind());
    let more = format!(
        "[auth.other]\nkind = \"forward\"\nurl = \"http://{}/auth\"\nrecheck_interval = \"1s\"\n\
         [[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"main\"\nauth = \"other\"",
        other.address()
    );
    let gate = asking(&slow, "recheck_interval = \"1s\"\ntimeout = \"1m\"").more(&more).start(&upstream);
    let (client, _) = ask(&gate, &mut Service::new(&slow), &open(), &admitting(ADA));
    let waiting = complete(client, &upstream);
    let mut service = Service::new(&other);
    let (client, _) = ask(&gate, &mut service, &Request::to("/other"), &admitting(""));
    let Session { mut client, mut server, .. } = complete(client, &upstream);
    let unanswered = slow.accept();
    service.reply(&replying("401 Unauthorized", "", ""));
    assert_eq!(client.expect_close(1008), "no longer admitted");
    assert_eq!(server.expect_close(1008), "no longer admitted");
    waiting.close();
    drop(unanswered);
}
