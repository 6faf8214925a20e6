//! Revocation: what the admin API, the watched file and the command revoke, and what outlives the process.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::admin::{Api, expect_closed};
use crate::support::PATIENCE;
use crate::support::gate::{Folder, Gate, command};
use crate::support::pki::token;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, switching};
use crate::support::wire::Head;

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// Returns a token of this subject with these claims.
fn token_of(subject: &str, jti: &str, sid: &str) -> String {
    token(&json!({ "sub": subject, "jti": jti, "sid": sid, "iat": now() - 10 }))
}

fn room(token: &str) -> Request {
    Request::to("/room/blue").bearer(token)
}

fn open(gate: &Gate, upstream: &Upstream, token: &str) -> Session {
    Session::open_with(gate, upstream, &room(token), &[])
}

/// Checks that a token is rejected as revoked.
fn expect_revoked(gate: &Gate, token: &str) {
    let response = Client::connect(gate).ask(&room(token));
    assert_eq!(response.head.status(), 401, "{response:?}");
    assert_eq!(response.head.get("WWW-Authenticate"), Some("Bearer error=\"invalid_token\""));
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["subject"]), (&json!("revoked"), &json!("ada")), "{line}");
}

fn revoke(api: &Api, body: Value) -> Value {
    let (status, answer) = api.ask("POST", "/v1/revocations", Some(&body));
    assert_eq!(status, 201, "{body}: {answer}");
    answer
}

#[test]
fn a_revocation_ends_the_sessions_of_its_tokens_and_rejects_new_ones_until_it_is_removed() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let (ada, bob) = (token_of("ada", "t1", "s1"), token_of("bob", "t2", "s2"));
    for body in [
        json!({ "auth": "users", "subject": "ada" }),
        json!({ "jti": "t1" }),
        json!({ "sid": "s1" }),
        json!({ "auth": "users", "jti": "t1", "reason": "stolen" }),
        json!({ "auth": "users", "sid": "s1", "expires": now() + 600 }),
        json!({ "auth": "users", "subject": "ada", "issued_before": now() }),
    ] {
        let (revoked, other) = (open(&gate, &upstream, &ada), open(&gate, &upstream, &bob));
        let answer = revoke(&api, body.clone());
        assert_eq!((&answer["ended"], &answer["durable"]), (&json!(1), &json!(false)), "{body}");
        let audit = gate.log.next("admin");
        assert_eq!((&audit["action"], &audit["count"]), (&json!("revoke"), &json!(1)));
        assert!(!audit.to_string().contains("ada") && !audit.to_string().contains("t1"), "{audit}");
        expect_closed(revoked, 1008, "revoked");
        let line = gate.log.next("session ended");
        assert_eq!((&line["cause"], &line["subject"], &line["code"]), (&json!("revoked"), &json!("ada"), &json!(1008)));
        expect_revoked(&gate, &ada);
        let listed = api.get("/v1/revocations");
        assert_eq!((listed["revocations"][0]["id"].clone(), &listed["cursor"]), (answer["id"].clone(), &Value::Null));
        for (name, value) in body.as_object().unwrap() {
            assert_eq!(
                listed["revocations"][0][name],
                json!(value.as_u64().map_or(value.clone(), |n| json!(n as f64)))
            );
        }
        let target = format!("/v1/revocations/{}", answer["id"].as_str().unwrap());
        assert_eq!(api.ask("DELETE", &target, None).0, 204);
        assert_eq!(api.ask("DELETE", &target, None).0, 404);
        assert_eq!(gate.log.next("admin")["action"], json!("unrevoke"));
        open(&gate, &upstream, &ada).close();
        other.close();
    }
}

#[test]
fn a_token_that_was_issued_after_the_time_of_a_revocation_is_admitted() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let issued = |iat: Value| token(&json!({ "iat": iat }));
    let (old, new, without) = (issued(json!(now() - 60)), issued(json!(now() - 20)), issued(Value::Null));
    let sessions = [&old, &without].map(|token| open(&gate, &upstream, token));
    let kept = open(&gate, &upstream, &new);
    let body = json!({ "auth": "users", "subject": "ada", "issued_before": now() - 40 });
    assert_eq!(revoke(&api, body)["ended"], json!(2));
    sessions.into_iter().for_each(|session| expect_closed(session, 1008, "revoked"));
    expect_revoked(&gate, &old);
    expect_revoked(&gate, &without);
    open(&gate, &upstream, &new).close();
    kept.close();
}

#[test]
fn revocations_outlive_a_killed_process() {
    let (upstream, api, state) = (Upstream::bind(), Api::new(), Folder::new());
    let start = || {
        let directory = format!("state_dir = {:?}", state.path(""));
        Setup::new().server(&directory).more(&api.section()).start(&upstream)
    };
    let gate = start();
    let ada = token_of("ada", "t1", "s1");
    assert_eq!(revoke(&api, json!({ "auth": "users", "subject": "ada" }))["durable"], json!(true));
    let id = revoke(&api, json!({ "jti": "t2" }))["id"].as_str().unwrap().to_owned();
    assert_eq!(api.ask("DELETE", &format!("/v1/revocations/{id}"), None).0, 204);
    let second = Gate::launch(Setup::new().server(&format!("state_dir = {:?}", state.path(""))).to(upstream.address()));
    second.log.wait_for("failure", |line| line.contains("another process uses this state_dir"));
    drop((second, gate));
    let gate = start();
    expect_revoked(&gate, &ada);
    assert_eq!(api.get("/v1/revocations")["revocations"].as_array().unwrap().len(), 1);
    drop(gate);
}

/// Without a time of its own, a revocation ends after `revocation_retention`, and not before the tokens that were seen.
#[test]
fn a_revocation_holds_as_long_as_the_tokens_that_were_seen() {
    let (upstream, api) = (Upstream::bind(), Api::new());
    let gate = Setup::new().server("revocation_retention = \"1h\"").more(&api.section()).start(&upstream);
    let end = |body: Value| {
        let answer = api.ask("POST", "/v1/revocations", Some(&body)).1;
        answer["expires"].as_f64().unwrap() - now() as f64
    };
    let hours = |seconds: f64| (seconds / 3600.0).round() as i64;
    assert_eq!(hours(end(json!({ "jti": "t1" }))), 1);
    open(&gate, &upstream, &token(&json!({ "exp": now() + 36_000 }))).close();
    assert_eq!(hours(end(json!({ "jti": "t2" }))), 10);
    assert_eq!(hours(end(json!({ "auth": "users", "subject": "ada" }))), 10);
    assert_eq!(hours(end(json!({ "jti": "t3", "expires": now() + 7_200 }))), 2);
}

/// A fresh token takes the place of the first one: from then on its own `jti` and `iat` count, and a revoked one renews
/// nothing.
#[test]
fn a_session_is_revoked_by_the_token_that_renewed_it() {
    let (upstream, api) = (Upstream::bind(), Api::new());
    let route = "[[route]]\nname = \"live\"\npath = \"/live\"\nrefresh_path = \"/live/refresh\"\n\
                 upstream = \"main\"\nauth = \"users\"\n";
    let gate = Setup::new().more(&format!("{route}{}", api.section())).start(&upstream);
    let [first, second, third] = ["t1", "t2", "t3"].map(|jti| token_of("ada", jti, "s1"));
    let refresh = |token: &str| {
        let request =
            Request::to("/").first_line("POST /live/refresh HTTP/1.1").without("Upgrade").without("Connection");
        Client::connect(&gate).ask(&request.bearer(token).with("Content-Length: 0"))
    };
    let session = Session::open_with(&gate, &upstream, &Request::to("/live").bearer(&first), &[]);
    assert!(refresh(&second).body.starts_with("{\"renewed\":1,"));
    assert_eq!(revoke(&api, json!({ "jti": "t1" }))["ended"], json!(0));
    revoke(&api, json!({ "jti": "t3" }));
    let response = refresh(&third);
    let line = gate.log.next("refused");
    assert_eq!((response.head.status(), &line["cause"], &line["auth"]), (401, &json!("revoked"), &json!("users")));
    assert_eq!(revoke(&api, json!({ "jti": "t2" }))["ended"], json!(1));
    expect_closed(session, 1008, "revoked");
}

#[test]
fn a_repeated_revocation_is_one_entry() {
    let upstream = Upstream::bind();
    let (api, _gate) = Api::start(&upstream);
    let first = revoke(&api, json!({ "jti": "t1", "issued_before": 1000 }));
    let (status, second) = api.ask("POST", "/v1/revocations", Some(&json!({ "jti": "t1" })));
    assert_eq!((status, &second["id"], &second["issued_before"]), (200, &first["id"], &Value::Null));
    for number in 0..5 {
        revoke(&api, json!({ "jti": format!("other-{number}") }));
    }
    let (mut listed, mut target) = (Vec::new(), "/v1/revocations?limit=2".to_owned());
    loop {
        let page = api.get(&target);
        listed.extend(page["revocations"].as_array().unwrap().clone());
        let Some(cursor) = page["cursor"].as_str() else { break };
        target = format!("/v1/revocations?limit=2&cursor={cursor}");
    }
    assert_eq!(listed.len(), 6);
    let metrics = api.get("/metrics");
    assert!(metrics.as_str().unwrap().contains("\ntollgate_revocations 6\n"), "{metrics}");
}

#[test]
fn a_revocation_that_would_have_no_effect_is_an_error() {
    let upstream = Upstream::bind();
    let (api, _gate) = Api::start(&upstream);
    let table = [
        (json!({}), 400, "exactly one of"),
        (json!({ "jti": "t1", "sid": "s1" }), 400, "exactly one of"),
        (json!({ "subject": "ada" }), 400, "needs `auth`"),
        (json!({ "auth": "nobody", "subject": "ada" }), 404, "not the name of an [auth] section"),
        (json!({ "jti": "" }), 400, "1 to 256 characters"),
        (json!({ "jti": "t1", "expires": now() - 1 }), 409, "in the past"),
        (json!({ "jti": "t1", "expires": -1 }), 400, "`expires`"),
        (json!({ "jti": "t1", "token": "x" }), 400, "unknown field"),
    ];
    for (body, status, detail) in table {
        let (got, answer) = api.ask("POST", "/v1/revocations", Some(&body));
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer["detail"].as_str().unwrap().contains(detail), "{body}: {answer}");
    }
    for target in ["/v1/revocations?limit=0", "/v1/revocations?cursor=x"] {
        assert_eq!(api.ask("GET", target, None).0, 400, "{target}");
    }
    assert_eq!(api.ask("DELETE", "/v1/revocations/0", None).0, 404);
    assert_eq!(api.get("/v1/revocations")["revocations"], json!([]));
}

#[test]
fn a_watched_file_revokes_while_it_lists_a_token() {
    let (upstream, api) = (Upstream::bind(), Api::new());
    let gate = Setup::new()
        .server("revocations_file = \"revoked.json\"")
        .file("revoked.json", r#"[{"jti":"t0"}]"#)
        .more(&api.section())
        .start(&upstream);
    let file = gate.folder.path("revoked.json");
    let (first, ada) = (token_of("ada", "t0", "s0"), token_of("ada", "t1", "s1"));
    expect_revoked(&gate, &first);
    let session = open(&gate, &upstream, &ada);
    std::fs::write(&file, r#"[{"auth":"users","subject":"ada","reason":"left"}]"#).unwrap();
    expect_closed(session, 1008, "revoked");
    let line = gate.log.next("revocations of revocations_file are in effect");
    assert_eq!((&line["count"], &line["ended"]), (&json!(1), &json!(1)));
    expect_revoked(&gate, &ada);
    let listed = api.get("/v1/revocations")["revocations"][0].clone();
    assert_eq!((&listed["source"], &listed["created"]), (&json!("file"), &Value::Null));
    assert_eq!(api.ask("DELETE", &format!("/v1/revocations/{}", listed["id"].as_str().unwrap()), None).0, 409);
    // A file that cannot be used changes nothing.
    std::fs::write(&file, "[\n{\"jti\":\"t1\"},\n{\"subject\":\"ada\"}\n]").unwrap();
    gate.log
        .wait_for("a warning", |line| line.contains("`subject` needs `auth`") && line.contains("at line 4 column 1"));
    expect_revoked(&gate, &ada);
    std::fs::write(&file, "[]").unwrap();
    gate.log.next("revocations of revocations_file are in effect");
    open(&gate, &upstream, &ada).close();
    open(&gate, &upstream, &first).close();
}

/// Answers one opening handshake, and reads until the end.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    stream.write_all(&switching(&Head { first_line: String::new(), fields }, &[]))?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// Clients connect while their subject is revoked: an admission that the revocation did not see is found by its
/// session, and the other way round.
#[test]
fn no_session_that_is_admitted_meanwhile_outlives_a_revocation() {
    let (listener, api) = (TcpListener::bind("127.0.0.1:0").unwrap(), Api::new());
    let address = listener.local_addr().unwrap();
    let setup = Setup::new().limits("close_timeout = \"100ms\"").more(&api.section());
    let gate = Gate::start(setup.to(address));
    thread::spawn(move || listener.incoming().for_each(|stream| drop(thread::spawn(move || serve(stream.unwrap())))));
    for round in 0..10 {
        let subject = format!("user-{round}");
        let token = token_of(&subject, "t", "s");
        let clients: Vec<_> = thread::scope(|scope| {
            let connect = || {
                let mut client = Client::connect(&gate);
                client.send(&room(&token).bytes());
                let status = client.head().status();
                assert!(matches!(status, 101 | 401), "{status}");
                client
            };
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(connect)).collect();
            revoke(&api, json!({ "auth": "users", "subject": subject }));
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let until = Instant::now() + PATIENCE;
        while !api.sessions(&format!("subject={subject}")).is_empty() {
            assert!(Instant::now() < until, "a session outlives its revocation");
        }
        drop(clients);
    }
}

#[test]
fn the_command_revokes_lists_and_removes() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let ada = token_of("ada", "t1", "s1");
    let address = format!("unix:{}", api.socket().display());
    let run = |arguments: &[&str], code: i32| {
        let done = command(None, &[&["revoke", "--admin", &address], arguments].concat()).output().unwrap();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let session = open(&gate, &upstream, &ada);
    let said = run(&["--auth", "users", "--subject", "ada", "--reason", "left"], 0);
    assert!(said.contains("closing 1 session\n") && said.contains("in memory only"), "{said}");
    expect_closed(session, 1008, "revoked");
    expect_revoked(&gate, &ada);
    let list = run(&["--list"], 0);
    assert!(list.contains("subject ada") && list.contains("left"), "{list}");
    let json: Value = serde_json::from_str(&run(&["--list", "--json"], 0)).unwrap();
    let id = json["revocations"][0]["id"].as_str().unwrap();
    assert_eq!(run(&["--remove", id], 0), format!("removed {id}\n"));
    run(&["--remove", id], 1);
    let made: Value = serde_json::from_str(&run(&["--sid", "s1", "--issued-before", "now", "--json"], 0)).unwrap();
    assert!(made["issued_before"].as_f64().unwrap() > 1_793_491_200.0);
    expect_revoked(&gate, &ada);
    run(&[], 64);
    run(&["--subject", "ada"], 64);
    run(&["--jti", "a", "--sid", "b"], 64);
    run(&["--jti", "a", "--issued-before", "soon"], 64);
}
