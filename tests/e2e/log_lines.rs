//! The log lines of sessions and rejections: client, route and cause, and no secrets.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gate::Gate;
use crate::support::pki::{good_token, token};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, refusing, switching};

/// Sends a request that is rejected, and returns its log line.
fn refused(gate: &Gate, request: &Request) -> Value {
    Client::connect(gate).ask(request);
    gate.log.next("refused")
}

fn check(line: &Value, expected: &[(&str, Value)]) {
    for (name, value) in expected {
        assert_eq!(&line[name], value, "{name}: {line}");
    }
    let id = line["request_id"].as_str().unwrap_or_default();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
}

#[test]
fn a_rejection_logs_its_client_route_and_cause() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("origins = [\"https://chat.example.com\"]").start(&upstream);
    let here = [("client", json!("127.0.0.1")), ("host", json!("chat.example.com")), ("level", json!("INFO"))];
    let room = || Request::to("/room/blue?token=secret");

    let line = refused(&gate, &Request::to("/elsewhere?q=1"));
    check(&line, &here);
    check(&line, &[("cause", json!("no_route")), ("path", json!("/elsewhere")), ("route", Value::Null)]);
    check(&line, &[("method", json!("GET"))]);

    let line = refused(&gate, &room().with("Origin: https://evil.example"));
    check(&line, &here);
    check(&line, &[("cause", json!("origin")), ("route", json!("room")), ("origin", json!("https://evil.example"))]);

    let line = refused(&gate, &room());
    check(&line, &[("cause", json!("no_token")), ("route", json!("room")), ("subject", Value::Null)]);
    check(&line, &[("auth", Value::Null)]);

    let line = refused(&gate, &room().bearer(&token(&json!({ "exp": 1 }))));
    check(&line, &[("cause", json!("token")), ("rule", json!("expired")), ("route", json!("room"))]);
    check(&line, &[("auth", json!("users"))]);

    // The name of the claim is logged, not its value.
    let line = refused(&gate, &room().bearer(&token(&json!({ "room": "classified" }))));
    let claims = [("cause", json!("claims")), ("route", json!("room")), ("subject", json!("ada"))];
    check(&line, &here);
    check(&line, &claims);
    check(&line, &[("auth", json!("users"))]);
    check(&line, &[("claim", json!("room")), ("path", json!("/room/blue"))]);
    assert!(!line.to_string().contains("classified"), "{line}");

    let line = refused(&gate, &room().bearer(&token(&json!({ "sub": "zo\u{eb}" }))));
    check(&line, &[("cause", json!("claims")), ("claim", json!("sub")), ("route", json!("room"))]);
}

#[test]
fn long_values_are_truncated() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("origins = [\"https://chat.example.com\"]").start(&upstream);
    let long = "x".repeat(1000);
    let line = refused(&gate, &Request::to(&format!("/open/{long}")).with(&format!("Origin: https://{long}")));
    for name in ["path", "origin"] {
        assert_eq!(line[name].as_str().unwrap().len(), 256, "{line}");
    }
}

/// A failure of Tollgate or of an upstream is logged as a warning, with the name of the upstream.
#[test]
fn upstream_failures_are_logged_as_warnings() {
    let (_taken, address) = refusing();
    let gate = Gate::start(Setup::new().to(address));
    let line = refused(&gate, &Request::to("/room/blue").bearer(&good_token()));
    check(&line, &[("level", json!("WARN")), ("cause", json!("unreachable")), ("upstream", json!("main"))]);
    check(&line, &[("route", json!("room")), ("subject", json!("ada")), ("path", json!("/room/blue"))]);
    check(&line, &[("auth", json!("users"))]);

    let upstream = Upstream::bind();
    let gate = Setup::new().upstream("response_timeout = \"100ms\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    let asked = server.head();
    client.response();
    let line = gate.log.next("refused");
    check(&line, &[("level", json!("WARN")), ("cause", json!("upstream_timeout")), ("upstream", json!("main"))]);
    check(&line, &[("server", json!(upstream.address().to_string())), ("route", json!("open"))]);
    assert_eq!(line["request_id"].as_str(), asked.get("X-Request-Id"), "the upstream got the same id");
}

/// Health checks and scanners send requests without an upgrade all the time.
#[test]
fn a_request_without_an_upgrade_is_logged_at_debug() {
    let upstream = Upstream::bind();
    let plain = || Request::to("/open/").without("Upgrade");
    let gate = Setup::new().start(&upstream);
    check(&refused(&gate, &plain()), &[("level", json!("DEBUG")), ("cause", json!("not_upgrade"))]);

    let gate = Setup::new().log("level = \"info\"").start(&upstream);
    assert_eq!(Client::connect(&gate).ask(&plain()).head.status(), 426);
    check(&refused(&gate, &Request::to("/elsewhere")), &[("cause", json!("no_route"))]);
    assert_eq!(gate.log.all("refused").len(), 1);
}

#[test]
fn session_start_and_end_are_logged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().log("level = \"info\"\nsession_start = \"info\"").start(&upstream);
    let request = Request::to("/room/blue?q=1").bearer(&good_token()).with("Origin: https://chat.example.com");
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    let id = session.asked.get("X-Request-Id").unwrap().to_owned();
    let started = gate.log.next("session started");
    session.close();
    let ended = gate.log.next("session ended");
    let server = upstream.address().to_string();
    for line in [&started, &ended] {
        check(line, &[("request_id", json!(id)), ("route", json!("room")), ("subject", json!("ada"))]);
        check(line, &[("client", json!("127.0.0.1")), ("server", json!(server)), ("level", json!("INFO"))]);
        check(line, &[("host", json!("chat.example.com")), ("path", json!("/room/blue"))]);
        check(line, &[("origin", json!("https://chat.example.com")), ("auth", json!("users"))]);
    }
    // By default "session started" is logged at debug level.
    let gate = Setup::new().log("level = \"info\"").start(&upstream);
    Session::open(&gate, &upstream).close();
    check(&gate.log.next("session ended"), &[("route", json!("open")), ("auth", Value::Null)]);
    assert!(gate.log.all("session started").is_empty());
}

const PHASES: [&str; 6] = ["queue_ms", "tls_ms", "head_ms", "admission_ms", "connect_ms", "answer_ms"];

/// Returns the milliseconds of each phase, and checks that they add up to the total.
fn phases(line: &Value) -> [Option<u64>; 6] {
    let phases = PHASES.map(|name| line[name].as_u64());
    let total = line["total_ms"].as_u64().expect("a total");
    let sum: u64 = phases.iter().flatten().sum();
    assert!((sum..=sum + 6).contains(&total), "each phase is rounded down: {line}");
    phases
}

#[test]
fn a_slow_upgrade_is_logged_with_the_time_of_each_phase() {
    let upstream = Upstream::bind();
    let slow = Duration::from_millis(60);
    for format in ["plain", "omit"] {
        let log = format!("slow_upgrade = \"50ms\"\naddress = \"{format}\"");
        let gate = Setup::new().log(&log).start(&upstream);
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/?token=secret").bytes());
        let mut server = upstream.accept();
        let asked = server.head();
        std::thread::sleep(slow);
        server.send(&switching(&asked, &[]));
        assert_eq!(client.head().status(), 101);
        let line = gate.log.next("slow upgrade");
        check(&line, &[("level", json!("WARN")), ("route", json!("open"))]);
        check(&line, &[("client", if format == "plain" { json!("127.0.0.1") } else { Value::Null })]);
        check(&line, &[("server", json!(upstream.address().to_string()))]);
        check(&line, &[("request_id", json!(asked.get("X-Request-Id").unwrap()))]);
        let [queue, tls, head, admission, connect, answer] = phases(&line);
        assert!(connect >= Some(60), "the upstream took this long: {line}");
        for other in [queue, tls, head, admission, answer] {
            assert!(other.is_some(), "{line}");
        }
    }
}

/// A client that sends its request late, and one whose upstream does not answer.
#[test]
fn a_slow_rejection_has_the_time_of_the_phases_that_it_reached() {
    let upstream = Upstream::bind();
    let setup = || Setup::new().log("slow_upgrade = \"50ms\"");
    let gate = setup().start(&upstream);
    let mut client = Client::connect(&gate);
    std::thread::sleep(Duration::from_millis(60));
    client.ask(&Request::to("/elsewhere"));
    let line = gate.log.next("refused");
    let [_, tls, head, admission, connect, answer] = phases(&line);
    // The proxy may see the end of the TLS handshake later than the client.
    assert!(tls.unwrap() + head.unwrap() >= 59 && admission.is_some(), "{line}");
    assert_eq!((connect, answer), (None, None), "{line}");

    let gate = setup().upstream("response_timeout = \"100ms\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let _server = upstream.accept();
    client.response();
    let line = gate.log.next("refused");
    check(&line, &[("cause", json!("upstream_timeout"))]);
    let [.., connect, answer] = phases(&line);
    assert!(connect >= Some(100), "{line}");
    assert_eq!(answer, None, "{line}");
}

#[test]
fn upgrades_within_the_threshold_have_no_phases_in_the_log() {
    let upstream = Upstream::bind();
    for threshold in ["1h", "off"] {
        let gate = Setup::new().log(&format!("slow_upgrade = \"{threshold}\"")).start(&upstream);
        Session::open(&gate, &upstream).close();
        gate.log.next("session ended");
        let line = refused(&gate, &Request::to("/elsewhere"));
        assert_eq!((&line["tls_ms"], &line["total_ms"]), (&Value::Null, &Value::Null), "{line}");
        assert!(gate.log.all("slow upgrade").is_empty());
    }
}

/// A subject alone does not identify a client: another section may have the same one.
#[test]
fn every_line_about_a_client_names_the_section_that_admitted_it() {
    let upstream = Upstream::bind();
    let limits = "sessions_per_subject = 1";
    let gate = Setup::new().room_limits(limits).start(&upstream);
    let request = Request::to("/room/blue").bearer(&good_token());
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    let identity = [("auth", json!("users")), ("subject", json!("ada"))];
    let line = refused(&gate, &request);
    check(&line, &[("cause", json!("subject_sessions"))]);
    check(&line, &identity);
    session.close();
    check(&gate.log.next("session ended"), &identity);
    let gate = Setup::new().room_limits(&format!("{limits}\nmode = \"report\"")).start(&upstream);
    let sessions = [(); 2].map(|()| Session::open_with(&gate, &upstream, &request, &[]));
    check(&gate.log.next("limit exceeded, and only reported"), &identity);
    drop(sessions);
}

/// A client has the same hash in the lines of its sessions and of its rejections, within one process.
#[test]
fn client_identities_can_be_hashed_or_omitted() {
    let upstream = Upstream::bind();
    let setup = |form| Setup::new().log(&format!("subject = \"{form}\"\naddress = \"{form}\""));
    let request = Request::to("/room/blue").bearer(&good_token());
    let other = Request::to("/room/red").bearer(&good_token());
    for form in ["hash", "omit"] {
        let gate = setup(form).start(&upstream);
        Session::open_with(&gate, &upstream, &request, &[]).close();
        let ended = gate.log.next("session ended");
        let response = refused(&gate, &other);
        for name in ["client", "subject"] {
            assert_eq!(ended[name], response[name]);
            assert_eq!(ended[name].as_str().map(str::len), (form == "hash").then_some(16), "{ended}");
        }
        let text = gate.log.text();
        assert!(!text.contains("\"ada\"") && !text.contains("\"client\":\"127.0.0.1\""), "{text}");
    }
}

/// A client that disconnects while its request waits for the upstream is logged.
#[test]
fn a_client_that_disconnects_before_its_response_is_logged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    let asked = server.head();
    drop(client);
    let line = gate.log.next("refused");
    check(&line, &[("request_id", json!(asked.get("X-Request-Id").unwrap())), ("path", json!("/open/"))]);
    check(&line, &[("cause", json!("client_gone")), ("route", json!("open")), ("upstream", json!("main"))]);
}

/// A request can put neither terminal escape sequences nor line breaks into the log.
#[test]
fn control_characters_in_requests_are_escaped() {
    let upstream = Upstream::bind();
    for format in ["json", "text"] {
        let gate = Gate::launch(Setup::new().to(upstream.address()).log(&format!("format = \"{format}\"")));
        let line = gate.log.wait_for("the address", |line| line.contains("listening"));
        let port = line.split("127.0.0.1:").nth(1).unwrap();
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        let mut gate = gate;
        gate.set_address(&json!({ "address": format!("127.0.0.1:{port}") }));
        let odd = "/a\u{9b}31m\u{202e}b\u{2028}c\u{85}d\u{feff}";
        Client::connect(&gate).ask(&Request::to(odd).with("Origin: https://\u{9b}2J\u{2067}"));
        let line = gate.log.wait_for("the rejection", |line| line.contains("refused"));
        let raw = line.chars().find(|c| c.is_control() || "\u{202e}\u{2028}\u{2067}\u{feff}".contains(*c));
        assert_eq!(raw, None, "{line:?}");
    }
}

/// Dropping the proxy searches its whole log for the credentials of all tests. Here, at the most verbose level, every
/// carrier of a token is used, accepted and rejected, besides cookies and parameters that are not tokens.
#[test]
fn no_log_has_a_token_cookie_or_query() {
    let upstream = Upstream::bind();
    let auth = "token_from = [\"header\", \"cookie:session\", \"query:token\", \"subprotocol:bearer\"]";
    let setup = Setup::new().log("level = \"trace\"\nslow_upgrade = \"1ms\"").auth(auth);
    let gate = setup.route("origins = [\"https://chat.example.com\"]").start(&upstream);
    for (token, accepted) in [(good_token(), true), (token(&json!({ "exp": 1 })), false)] {
        let plain = Request::to("/room/blue?ticket=not-a-token-but-secret").with("Cookie: id=a-cookie-that-is-secret");
        let carriers = [
            plain.clone().bearer(&token),
            plain.clone().with(&format!("Cookie: session={token}")),
            Request::to(&format!("/room/blue?token={token}")),
            plain.with(&format!("Sec-WebSocket-Protocol: bearer, {token}")),
        ];
        for request in carriers {
            if accepted {
                Session::open_with(&gate, &upstream, &request, &[]).close();
                gate.log.next("session ended");
            } else {
                check(&refused(&gate, &request), &[("rule", json!("expired"))]);
            }
        }
    }
}
