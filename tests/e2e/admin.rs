//! The admin API: lists, closes, messages, taps, reloads and the end of the process.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki::{Leaf, client_config};
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Frame;

/// The socket of an admin API, in a directory that is removed at the end. The directory is below that of the system,
/// since the path of a socket is limited to 107 bytes.
pub struct Api(PathBuf);

impl Api {
    pub fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tollgate-e2e-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    pub fn section(&self) -> String {
        format!("[admin]\naddress = \"unix:{}\"\npayload = true", self.socket().display())
    }

    pub fn start(upstream: &Upstream) -> (Self, Gate) {
        let api = Self::new();
        let gate = Setup::new().more(&api.section()).start(upstream);
        (api, gate)
    }

    /// Sends a request, and returns the stream of the answer. Its body ends with the connection (HTTP/1.0).
    pub fn send(&self, method: &str, target: &str, body: Option<&Value>) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let request = format!("{method} {target} HTTP/1.0\r\n{json}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    pub fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> (u16, Value) {
        let mut answer = String::new();
        self.send(method, target, body).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    pub fn get(&self, target: &str) -> Value {
        let (status, answer) = self.ask("GET", target, None);
        assert_eq!(status, 200, "{target}: {answer}");
        answer
    }

    /// The sessions of a list.
    pub fn sessions(&self, query: &str) -> Vec<Value> {
        self.get(&format!("/v1/sessions?{query}"))["sessions"].as_array().unwrap().clone()
    }

    /// Waits until this many sessions are listed. A session that has ended is listed until its connections are closed.
    pub fn wait_for_sessions(&self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.sessions("").len() != count {
            assert!(Instant::now() < until, "{:?}", self.sessions(""));
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the events of a tap up to its end.
fn events(stream: BufReader<UnixStream>) -> impl Iterator<Item = Value> {
    let lines = stream.lines().map(Result::unwrap);
    lines.filter_map(|line| line.strip_prefix("data: ").map(|data| serde_json::from_str(data).unwrap()))
}

fn id(session: &Value) -> &str {
    session["id"].as_str().unwrap()
}

/// Checks that both ends get this Close, and answers it.
pub fn expect_closed(mut session: Session, code: u16, reason: &str) {
    assert_eq!(session.server.expect_close(code), reason);
    assert_eq!(session.client.expect_close(code), reason);
    session.server.send_frame(Frame::close(code, ""));
    session.client.send_frame(Frame::close(code, ""));
    session.client.expect_clean_end();
    session.server.expect_clean_end();
}

#[test]
fn a_session_is_listed_with_its_counts_until_it_ends() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    assert!(api.sessions("").is_empty());
    let mut session = Session::open(&gate, &upstream);
    session.client.send_text("hello");
    session.server.expect_text("hello");
    session.server.send_text("hello, too");
    session.client.expect_text("hello, too");
    let listed = api.sessions("address=127.0.0.0/8&sort=-bytes&limit=1");
    let request = session.asked.get("x-request-id").unwrap().to_owned();
    let described = api.get(&format!("/v1/sessions/{request}"));
    for shown in [&listed[0], &described] {
        assert_eq!(id(shown), request);
        assert_eq!((&shown["messages_in"], &shown["messages_out"]), (&json!(1), &json!(1)));
        assert_eq!((&shown["bytes_in"], &shown["bytes_out"]), (&json!(11), &json!(12)));
        assert_eq!((&shown["activity"], &shown["path"]), (&json!("open"), &json!("/open/")));
    }
    assert_eq!((&listed[0]["limits"], described["limits"].is_object()), (&Value::Null, true));
    session.close();
    api.wait_for_sessions(0);
    assert_eq!(api.ask("GET", &format!("/v1/sessions/{request}"), None).0, 404);
}

#[test]
fn a_closed_session_ends_at_both_ends_with_the_given_code_and_reason() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let (session, mut other) = (Session::open(&gate, &upstream), Session::open(&gate, &upstream));
    let target = format!("/v1/sessions/{}?code=4001&reason=by%20hand", session.asked.get("x-request-id").unwrap());
    assert_eq!(api.ask("DELETE", &target, None), (204, "".into()));
    expect_closed(session, 4001, "by hand");
    other.client.send_text("still open");
    other.server.expect_text("still open");
    let line = gate.log.next("admin");
    assert_eq!((&line["action"], &line["count"]), (&json!("close"), &json!(1)));
    assert!(line["who"].as_str().unwrap().starts_with("uid "), "{line}");
    other.close();
}

#[test]
fn a_filter_closes_the_sessions_that_match_and_no_other() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let (session, mut other) = (Session::open(&gate, &upstream), Session::open(&gate, &upstream));
    let filter = json!({ "id": session.asked.get("x-request-id").unwrap(), "route": "open" });
    let close = |filter: Value| {
        api.ask("POST", "/v1/sessions/close", Some(&json!({ "filter": filter, "code": 1001, "reason": "moving" })))
    };
    assert_eq!(close(json!({})).0, 400);
    assert_eq!(close(json!({ "route": "nothing" })), (202, json!({ "selected": 0 })));
    assert_eq!(close(filter), (202, json!({ "selected": 1 })));
    expect_closed(session, 1001, "moving");
    api.wait_for_sessions(1);
    other.client.send_text("still open");
    other.server.expect_text("still open");
    assert_eq!(close(json!({ "all": true })), (202, json!({ "selected": 1 })));
    expect_closed(other, 1001, "moving");
}

#[test]
fn a_message_reaches_the_client_and_not_the_upstream() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let message = json!({ "filter": { "route": "open" }, "text": "a notice" });
    assert_eq!(api.ask("POST", "/v1/sessions/send", Some(&message)), (202, json!({ "selected": 1 })));
    session.client.expect_text("a notice");
    session.client.send_text("next");
    session.server.expect_text("next");
    let binary = json!({ "filter": {}, "all": true, "binary": "AP8=" });
    assert_eq!(api.ask("POST", "/v1/sessions/send", Some(&binary)).0, 202);
    assert_eq!(session.client.frame().payload, [0, 0xff]);
    session.close();
}

#[test]
fn a_tap_shows_the_frames_of_both_sides_and_ends_with_the_session() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let request = session.asked.get("x-request-id").unwrap().to_owned();
    let mut stream = api.send("GET", &format!("/v1/sessions/{request}/frames?payload=true"), None);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.contains(" 200 "), "{line}");
    session.client.send_text("hello");
    session.server.expect_text("hello");
    session.server.send_frame(Frame::new(2, [1, 2]));
    assert_eq!(session.client.frame().payload, [1, 2]);
    session.close();
    let events: Vec<Value> = events(stream).collect();
    let shown = |event: &Value| {
        ["direction", "opcode", "payload", "text"].map(|name| event[name].as_str().unwrap_or("-").to_owned())
    };
    let shown: Vec<[String; 4]> = events.iter().map(shown).collect();
    assert_eq!(shown[0], ["in", "text", "aGVsbG8=", "hello"]);
    assert_eq!(shown[1], ["out", "binary", "AQI=", "-"]);
    assert!(shown[2..].iter().all(|frame| frame[1] == "close"), "{shown:?}");
    assert_eq!((&events[0]["length"], &events[0]["fin"]), (&json!(5), &json!(true)));
}

#[test]
fn a_fifth_tap_of_a_session_is_refused() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let session = Session::open(&gate, &upstream);
    let target = format!("/v1/sessions/{}/frames", session.asked.get("x-request-id").unwrap());
    let tap = || {
        let mut stream = api.send("GET", &target, None);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        (stream, line)
    };
    let taps: Vec<_> = (0..4).map(|_| tap()).collect();
    assert!(taps.iter().all(|(_, line)| line.contains(" 200 ")), "{taps:?}");
    let (_, refused) = tap();
    assert!(refused.contains(" 503 "), "{refused}");
    session.close();
}

#[test]
fn a_reload_reports_its_effect_or_the_errors_of_the_file() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let session = Session::open(&gate, &upstream);
    let (status, summary) = api.ask("POST", "/v1/reload", None);
    assert_eq!((status, &summary["generation"], &summary["kept"]), (200, &json!(2), &json!(1)));
    gate.edit(|text| text.replace("auth = \"none\"", "auth = \"nobody\""));
    let (status, problem) = api.ask("POST", "/v1/reload?dry_run=true", None);
    assert_eq!(status, 422);
    let report = problem["report"].as_str().unwrap();
    assert!(report.contains("nobody") && report.contains('^'), "{report}");
    let info = api.get("/v1/info");
    assert_eq!((&info["generation"], &info["last_reload"]["successful"]), (&json!(2), &json!(true)));
    session.close();
}

#[test]
fn the_socket_is_private_and_metrics_count_sessions() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    assert_eq!(std::fs::metadata(api.socket()).unwrap().mode() & 0o777, 0o600);
    let mut session = Session::open(&gate, &upstream);
    session.client.send_text("counted");
    session.server.expect_text("counted");
    let metrics = api.get("/metrics");
    let line = metrics.as_str().unwrap().lines().find(|line| line.starts_with("tollgate_sessions{route=\"open\""));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    session.close();
}

#[test]
fn the_api_serves_during_the_drain_and_its_socket_is_removed_at_the_end() {
    let upstream = Upstream::bind();
    let (api, mut gate) = Api::start(&upstream);
    let session = Session::open(&gate, &upstream);
    assert_eq!(api.ask("GET", "/readyz", None).0, 200);
    let request = session.asked.get("x-request-id").unwrap().to_owned();
    let tap = api.send("GET", &format!("/v1/sessions/{request}/frames"), None);
    gate.drain();
    assert_eq!((api.ask("GET", "/readyz", None).0, api.ask("GET", "/healthz", None).0), (503, 200));
    assert_eq!(api.get("/v1/info")["phase"], "draining");
    assert_eq!(id(&api.sessions("")[0]), request);
    expect_closed(session, 1001, "going away");
    // Neither the tap nor the API keeps the process from ending.
    assert!(gate.wait_exit().success());
    drop(tap);
    assert!(!api.socket().exists());
}

/// Both ends of each session are an independent implementation, tungstenite, and echo messages of several frames all
/// the time.
#[test]
fn messages_of_an_operator_fit_between_the_messages_of_other_implementations() {
    const SESSIONS: usize = 6;
    const MESSAGES: usize = 25;
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let (opened, over) = (Barrier::new(SESSIONS + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for _ in 0..SESSIONS {
            let stream = Client::connect(&gate).stream;
            scope.spawn(|| {
                let mut echo = tungstenite::accept(upstream.accept().stream).unwrap();
                while let Ok(message) = echo.read() {
                    if message.is_text() {
                        echo.send(message).unwrap();
                    }
                }
            });
            let (socket, _) = tungstenite::client("wss://chat.example.com/open/", stream).unwrap();
            let (opened, over) = (&opened, &over);
            clients.push(scope.spawn(move || {
                let mut socket = socket;
                let (mut notices, mut number) = (Vec::new(), 0);
                opened.wait();
                while !over.load(Ordering::Relaxed) || notices.len() < MESSAGES {
                    let own = format!("own {number} {}", "x".repeat(number * 977 % 70_000));
                    number += 1;
                    socket.send(Message::text(own.clone())).unwrap();
                    loop {
                        let Message::Text(text) = socket.read().unwrap() else { panic!("not a text") };
                        if text.as_str() == own {
                            break;
                        }
                        notices.push(text.to_string());
                    }
                }
                socket.close(None).unwrap();
                while socket.read().is_ok() {}
                notices
            }));
        }
        opened.wait();
        let notices: Vec<String> = (0..MESSAGES).map(|number| format!("notice {number}")).collect();
        for notice in &notices {
            let (status, answer) = api.ask("POST", "/v1/sessions/send", Some(&json!({ "all": true, "text": notice })));
            assert_eq!((status, &answer["selected"]), (202, &json!(SESSIONS)));
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().unwrap(), notices);
        }
    });
}

/// Requests that arrive while changed files settle do not discard the change.
#[test]
fn files_that_change_are_used_although_requests_arrive() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let leaf = Leaf::new(&["chat.example.com"]);
    for (name, text) in [("chain-0.pem", &leaf.chain_pem), ("key-0.pem", &leaf.key_pem)] {
        std::fs::write(gate.folder.path(name), text).unwrap();
    }
    while gate.log.all("files reloaded").is_empty() {
        // A request every few milliseconds for the whole time.
        assert_eq!(api.ask("DELETE", "/v1/sessions/00000000000000000000000000000000", None).0, 404);
        assert_eq!(api.ask("POST", "/v1/reload?dry_run=true", None).0, 200);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let config = std::sync::Arc::new(client_config(rustls::ALL_VERSIONS));
    let client = Client::connect_with(&gate, config, "chat.example.com");
    assert_eq!(client.stream.conn.peer_certificates().unwrap()[0], leaf.der);
}

/// Sessions that a reload is ending do not count again at the next one.
#[test]
fn sessions_that_are_ending_do_not_keep_a_further_reload_from_succeeding() {
    let upstream = Upstream::bind();
    let api = Api::new();
    let setup = Setup::new().server("recheck_rate = \"1/m\"").more(&api.section());
    let gate = setup.start(&upstream);
    let mut sessions: Vec<Session> = (0..4).map(|_| Session::open(&gate, &upstream)).collect();
    // Once messages pass, a session is counted.
    for session in &mut sessions {
        session.client.send_text("first");
        session.server.expect_text("first");
    }
    gate.edit(|text| text.replace("auth = \"none\"", "auth = \"none\"\ndeny_addresses = [\"127.0.0.1\"]"));
    assert_eq!(api.ask("POST", "/v1/reload", None).0, 409);
    let (status, answer) = api.ask("POST", "/v1/reload?force=true", None);
    assert_eq!((status, &answer["ended"]), (200, &json!({ "address": 4 })), "{answer}");
    // One ends at once, the others in the minutes that follow.
    let (status, answer) = api.ask("POST", "/v1/reload", None);
    assert_eq!((status, &answer["ended"]), (200, &json!({})), "{answer}");
    sessions.iter_mut().skip(1).for_each(|session| {
        session.client.send_text("still here");
        session.server.expect_text("still here");
    });
}
