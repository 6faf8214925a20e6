//! Forward authentication: the service is asked about each request, and again about open sessions.

use serde_json::json;

use crate::admin::Api;
use crate::keys::check_online;
use crate::refusals::{answer, check_id};
use crate::support::gate::Gate;
use crate::support::pki::good_token;
use crate::support::provider::{self, Provider};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream};
use crate::support::wire::Head;

/// Returns a setup whose routes ask this service. `lines` are further keys of the section.
pub fn asking(service: &Upstream, lines: &str) -> Setup {
    asking_at(&format!("http://{}/auth?x=1", service.address()), lines)
}

fn asking_at(url: &str, lines: &str) -> Setup {
    let section = format!(
        "[auth.sso]\nkind = \"forward\"\nurl = \"{url}\"\n\
         response_headers = [\"X-Auth-Request-User\", \"X-Auth-Request-Groups\", \"Authorization\"]\n\
         subject_header = \"X-Auth-Request-User\"\n{lines}"
    );
    Setup::new()
        .route("auth = \"sso\"\nrequire = {}\nforward_claims = {}\norigins = [\"https://a.example\"]")
        .more(&section)
}

fn open() -> Request {
    Request::to("/open/?room=blue").with("Origin: https://a.example").with("Cookie: session=abc")
}

pub const ADA: &str = "X-Auth-Request-User: ada\r\nX-Auth-Request-Groups: dev,admin\r\n";

/// Sends a request and answers the service's part of it.
fn ask(gate: &Gate, service: &mut Service<'_>, request: &Request, reply: &[u8]) -> (Client, Head) {
    let mut client = Client::connect(gate);
    client.send(&request.bytes());
    let asked = service.reply(reply);
    (client, asked)
}

/// The service, which answers over connections that the proxy may reuse.
pub struct Service<'a> {
    listener: &'a Upstream,
    connection: Option<Server>,
}

impl<'a> Service<'a> {
    pub fn new(listener: &'a Upstream) -> Self {
        Self { listener, connection: None }
    }

    /// Reads one request on a new connection, and answers it.
    pub fn reply(&mut self, reply: &[u8]) -> Head {
        let mut connection = self.listener.accept();
        let asked = connection.head();
        connection.send(reply);
        self.connection = Some(connection);
        asked
    }
}

pub fn admitting(lines: &str) -> Vec<u8> {
    replying("200 OK", lines, "")
}

/// Returns a response after which the connection closes, so that each request has its own.
pub fn replying(status: &str, lines: &str, body: &str) -> Vec<u8> {
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
fn a_client_gets_at_most_16_cookies_of_the_service() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "").start(&upstream);
    let lines: String = (0..17).map(|number| format!("Set-Cookie: c{number}=x\r\n")).collect();
    let (client, _) = ask(&gate, &mut Service::new(&listener), &open(), &admitting(&format!("{ADA}{lines}")));
    let session = complete(client, &upstream);
    let cookies = session.answer.fields.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| &**value);
    let first: Vec<_> = (0..16).map(|number| format!("c{number}=x")).collect();
    assert_eq!(cookies.collect::<Vec<_>>(), first);
    session.close();
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

/// The status decides without the body, which may be long or never end.
#[test]
fn a_long_or_slow_body_of_the_service_changes_no_decision() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "timeout = \"10s\"").start(&upstream);
    let mut service = Service::new(&listener);
    let long = "a".repeat(70_000);
    let endless = |status: &str, lines: &str| {
        format!("HTTP/1.1 {status}\r\n{lines}Content-Type: text/html\r\nContent-Length: 9\r\n\r\na").into_bytes()
    };
    for (cookie, reply) in [("long", replying("200 OK", ADA, &long)), ("endless", endless("200 OK", ADA))] {
        let request = open().replacing(&format!("Cookie: session={cookie}"));
        let (client, _) = ask(&gate, &mut service, &request, &reply);
        let session = complete(client, &upstream);
        assert_eq!(session.asked.get("X-Auth-Request-User"), Some("ada"));
        session.close();
    }
    let location = "Location: https://login.example.com/\r\nContent-Encoding: gzip\r\n";
    for reply in [replying("302 Found", location, &long), endless("302 Found", location)] {
        let (mut client, _) = ask(&gate, &mut service, &open().replacing("Cookie: c=d"), &reply);
        let response = client.response();
        assert_eq!((response.head.status(), response.body.as_str()), (302, ""));
        assert_eq!(response.head.get("Location"), Some("https://login.example.com/"));
        assert_eq!((response.head.get("Content-Encoding"), response.head.get("Content-Type")), (None, None));
    }
}

/// A server error, a status that is not a decision, an answer that cannot be used, silence, and no server.
#[test]
fn a_service_without_a_decision_rejects_the_client_for_now() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "timeout = \"100ms\"").start(&upstream);
    let mut service = Service::new(&listener);
    let twice = format!("{ADA}{ADA}");
    let large = format!("{ADA}X-Auth-Request-Groups: {}\r\n", "a".repeat(9_000));
    let replies = [
        replying("500 Internal Server Error", "", ""),
        replying("404 Not Found", "", ""),
        replying("429 Too Many Requests", "", ""),
        admitting(&twice),
        admitting(&large),
        // Without the header that names the subject.
        admitting("X-Auth-Request-Groups: admin\r\n"),
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
    assert_eq!(response.body, "Clients cannot be authenticated for now.\n");
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

#[test]
fn check_online_reports_a_service_that_gives_no_decision() {
    let (upstream, provider) = (Upstream::bind(), Provider::start(&[]));
    let url = provider.url("/auth");
    let gate = asking_at(&url, "").start(&upstream);
    let table = [
        ("401 Unauthorized", 0, ""),
        ("403 Forbidden", 0, ""),
        ("302 Found", 0, ""),
        ("202 Accepted", 0, "warning: "),
        ("404 Not Found", 1, "error: "),
        ("500 Internal Server Error", 1, "error: "),
    ];
    for (status, expected, kind) in table {
        provider.answer(move |path| (path == "/auth").then(|| provider::answer(status, "")));
        let (code, out, err) = check_online(&gate);
        assert_eq!(code, Some(expected), "{status}: {out}{err}");
        let (text, none) = if kind.is_empty() { (&out, &err) } else { (&err, &out) };
        let line = text.lines().find(|line| line.contains(&url)).expect(status);
        assert!(line.starts_with(kind) && line.contains(status), "{status}: {text}");
        assert_eq!(out.contains(": ok ("), code == Some(0), "{status}: {out}");
        assert!(!none.contains(&url), "{status}: {none}");
    }
    provider.answer(|_| Some(b"nothing\r\n\r\n".into()));
    let (code, out, err) = check_online(&gate);
    assert_eq!((code, &*out), (Some(1), ""), "{err}");
    let line = err.lines().last().unwrap();
    assert!(line.starts_with("error: ") && line.contains(&format!("\"sso\": {url}: no valid response: ")), "{err}");
}

#[test]
fn the_outcomes_of_a_section_are_counted_across_a_change_of_its_configuration() {
    let (upstream, listener, api) = (Upstream::bind(), Upstream::bind(), Api::new());
    let gate = asking(&listener, "cache_for = \"1h\"").more(&api.section()).start(&upstream);
    let mut service = Service::new(&listener);
    let count = |outcome: &str| {
        let metrics = api.get("/metrics");
        let series = format!("tollgate_auth_requests_total{{auth=\"sso\",outcome=\"{outcome}\"}} ");
        metrics.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&series)).unwrap().to_owned()
    };
    let counts = || ["admitted", "rejected", "unavailable", "reused"].map(count);
    assert_eq!(counts(), ["0", "0", "0", "0"]);
    let (client, _) = ask(&gate, &mut service, &open(), &admitting(ADA));
    complete(client, &upstream).close();
    for _ in 0..2 {
        Session::open_with(&gate, &upstream, &open(), &[]).close();
    }
    for status in ["403 Forbidden", "500 Internal Server Error"] {
        let other = open().replacing("Cookie: session=other");
        let (mut client, _) = ask(&gate, &mut service, &other, &replying(status, "", ""));
        client.response();
    }
    assert_eq!(counts(), ["1", "1", "1", "2"]);
    gate.reload(|text| text.replace("cache_for = \"1h\"", "cache_for = \"30m\""));
    let (client, _) = ask(&gate, &mut service, &open(), &admitting(ADA));
    complete(client, &upstream).close();
    assert_eq!(counts(), ["2", "1", "1", "2"]);
}

/// With the descriptors that the process asks for, all sessions can be open while as many requests as possible wait.
#[test]
fn requests_that_wait_leave_descriptors_and_places_to_others() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let more = format!(
        "[auth.sso]\nkind = \"forward\"\nurl = \"http://{}/auth\"\ntimeout = \"1m\"\n\
         [[route]]\nname = \"asked\"\npath = \"/asked\"\nupstream = \"main\"\nauth = \"sso\"\n",
        listener.address()
    );
    let setup = |limit: &str| {
        let server = "max_sessions = 8\nmax_handshakes = 8";
        let setup = Setup::new().to(upstream.address()).server(server).more(&more);
        setup.before(format!("ulimit -n {limit}").leak())
    };
    let mut refused = Gate::launch(setup("100"));
    assert_eq!(refused.wait_exit().code(), Some(78));
    let error = refused.log.next("tollgate failed")["error"].to_string();
    let needed = error.split(' ').skip_while(|word| *word != "needs").nth(1).unwrap();
    let gate = Gate::start(setup(needed));
    let ask = |address: u8| {
        let mut client = Client::connect_from(&gate, [127, 0, 0, address]);
        client.send(&Request::to("/asked").bytes());
        client
    };
    let expect_busy = |address: u8| {
        let head = ask(address).response().head;
        assert_eq!((head.status(), head.get("Retry-After")), (503, Some("5")), "{head:?}");
        assert_eq!(gate.log.next("refused")["cause"], "auth_busy");
    };
    let mut waiting = Vec::new();
    for address in 1..=4 {
        // Once the service has the question, the request waits.
        waiting.extend((0..16).map(|_| (ask(address), listener.accept())));
        expect_busy(address);
    }
    expect_busy(5);
    let sessions: Vec<Session> = (0..8).map(|_| Session::open(&gate, &upstream)).collect();
    sessions.into_iter().for_each(Session::close);
    // A client that goes away leaves its place.
    let (client, mut service) = waiting.pop().unwrap();
    drop(client);
    service.head();
    service.expect_end();
    let _next = (ask(5), listener.accept());
}
