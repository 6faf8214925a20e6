//! Keys that are fetched: rotation, outages, discovery, and requests that need keys.

use std::process::Output;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::gate::{Gate, command};
use crate::support::pki::NamedKey;
use crate::support::provider::{Provider, answer};
use crate::support::request::Request;
use crate::support::session::{Client, ErrorResponse, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, refusing};

fn jwks_url(provider: &Provider) -> Setup {
    Setup::new().auth(&format!("jwks_url = {:?}", provider.url("/keys")))
}

fn room(key: &NamedKey) -> Request {
    Request::to("/room/blue").bearer(&key.token(&json!({})))
}

fn ask(gate: &Gate, request: &Request) -> ErrorResponse {
    Client::connect(gate).ask(request)
}

fn status(gate: &Gate, key: &NamedKey) -> u16 {
    ask(gate, &room(key)).head.status()
}

fn open(gate: &Gate, upstream: &Upstream, key: &NamedKey) -> Session {
    let mut session = Session::open_with(gate, upstream, &room(key), &[]);
    session.echo("hello");
    session
}

/// Checks a 503 that tells the client when to try again.
fn expect_unavailable(response: &ErrorResponse) {
    assert_eq!(response.head.status(), 503, "{response:?}");
    let seconds: u64 = response.head.get("Retry-After").unwrap().parse().unwrap();
    assert!((1..=31).contains(&seconds), "{seconds}");
}

#[test]
fn a_start_without_the_issuer_answers_503_until_the_keys_are_there() {
    let (upstream, key) = (Upstream::bind(), NamedKey::new("a"));
    let (socket, address) = refusing();
    let setup = Setup::new().auth(&format!("jwks_url = \"http://{address}/keys\""));
    let gate = setup.start(&upstream);
    expect_unavailable(&ask(&gate, &room(&key)));
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["level"]), (&json!("keys_unavailable"), &json!("WARN")), "{line}");
    // Other routes are served.
    Session::open(&gate, &upstream).close();
    let failed = gate.log.all("key set cannot be fetched");
    assert_eq!(failed[0]["url"], format!("http://{address}/keys"), "{failed:?}");
    assert_eq!(failed[0]["auth"], "users", "{failed:?}");
    let error = failed[0]["error"].as_str().unwrap();
    assert!(error.contains("refused") && !error.contains("http://"), "{failed:?}");

    socket.listen(16).unwrap();
    let _provider = Provider::listen(socket.into(), &[&key]);
    let fetched = gate.log.next("key set fetched");
    assert_eq!(fetched["keys"], 1, "{fetched}");
    open(&gate, &upstream, &key).close();
    assert_eq!(gate.log.all("key set cannot be fetched").len(), 1, "a failure is logged once");
}

#[test]
fn a_request_waits_for_the_first_keys() {
    let (upstream, key) = (Upstream::bind(), NamedKey::new("a"));
    let provider = Provider::start(&[&key]);
    let gate = jwks_url(&provider).start(&upstream);
    open(&gate, &upstream, &key).close();
    assert_eq!(provider.paths(), ["/keys"]);
}

#[test]
fn a_rotation_is_followed_and_a_key_that_left_ends_its_sessions() {
    let (upstream, [old, new, unknown]) = (Upstream::bind(), ["old", "new", "unknown"].map(NamedKey::new));
    let provider = Provider::start(&[&old]);
    let gate = jwks_url(&provider).start(&upstream);
    let mut before = open(&gate, &upstream, &old);
    // The new key is published, and used at once.
    provider.publish(&[&old, &new]);
    let mut after = open(&gate, &upstream, &new);
    open(&gate, &upstream, &old).close();
    assert_eq!(provider.paths().len(), 2);
    let changed = gate.log.next("key set changed");
    assert_eq!((&changed["added"], &changed["removed"]), (&json!(1), &json!(0)), "{changed}");
    before.echo("hello");
    // The old key leaves.
    provider.publish(&[&new]);
    assert_eq!(status(&gate, &unknown), 401);
    assert_eq!(before.client.expect_close(1008), "no longer admitted");
    assert_eq!(before.server.expect_close(1008), "no longer admitted");
    // Its token was cached.
    assert_eq!(status(&gate, &old), 401);
    let line = gate.log.all("refused").pop().unwrap();
    assert_eq!((&line["cause"], &line["rule"]), (&json!("token"), &json!("key_unknown")), "{line}");
    after.echo("hello");
    after.close();
}

#[test]
fn made_up_keys_cause_two_fetches() {
    let (upstream, [key, unknown]) = (Upstream::bind(), ["a", "b"].map(NamedKey::new));
    let provider = Provider::start(&[&key]);
    let gate = jwks_url(&provider).start(&upstream);
    gate.log.next("key set fetched");
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(status(&gate, &unknown), 401);
    }
    assert!(start.elapsed() > PATIENCE || provider.paths().len() == 3, "{:?}", provider.paths());
    open(&gate, &upstream, &key).close();
}

#[test]
fn the_keys_are_kept_while_the_issuer_does_not_answer_properly() {
    let upstream = Upstream::bind();
    let table: [(Option<Vec<u8>>, &str); 6] = [
        (Some(answer("500 Internal Server Error", "{}")), "status is 500"),
        (Some(answer("302 Found\r\nLocation: /other", "")), "redirect"),
        (Some(answer("200 OK", "<html>")), "not JSON"),
        (Some(answer("200 OK", r#"{"keys":[]}"#)), "no keys"),
        (Some(answer("200 OK", &" ".repeat(2 << 20))), "larger than"),
        (Some(Vec::new()), "no valid response"),
    ];
    for (answer, expected) in table {
        let [key, unknown] = ["a", "b"].map(NamedKey::new);
        let provider = Provider::start(&[&key]);
        let gate = jwks_url(&provider).start(&upstream);
        let mut session = open(&gate, &upstream, &key);
        provider.answer(move |_| answer.clone());
        expect_unavailable(&ask(&gate, &room(&unknown)));
        let failed = gate.log.next("key set cannot be fetched");
        assert!(failed["error"].as_str().unwrap().contains(expected), "{failed}");
        assert_eq!(failed["age_secs"], 0, "{failed}");
        open(&gate, &upstream, &key).close();
        assert!(!provider.paths().contains(&"/other".to_owned()), "a redirect is not followed");
        // The next attempt succeeds.
        provider.publish(&[&key]);
        gate.log.next("key set fetched again");
        session.echo("hello");
        session.close();
    }
}

#[test]
fn a_request_does_not_wait_long_for_a_slow_issuer() {
    let (upstream, [key, unknown]) = (Upstream::bind(), ["a", "b"].map(NamedKey::new));
    let provider = Provider::start(&[&key]);
    let gate = jwks_url(&provider).start(&upstream);
    open(&gate, &upstream, &key).close();
    provider.answer(|_| None);
    let mut waiting = Client::connect(&gate);
    waiting.send(&room(&unknown).bytes());
    provider.wait_for(2);
    // Known keys do not wait.
    open(&gate, &upstream, &key).close();
    expect_unavailable(&waiting.response());
}

#[test]
fn a_client_that_disconnects_while_it_waits_for_keys_is_logged() {
    let (upstream, [key, unknown]) = (Upstream::bind(), ["a", "b"].map(NamedKey::new));
    let provider = Provider::start(&[&key]);
    let gate = jwks_url(&provider).start(&upstream);
    open(&gate, &upstream, &key).close();
    provider.answer(|_| None);
    let mut client = Client::connect(&gate);
    client.send(&room(&unknown).bytes());
    // Its fetch has begun.
    provider.wait_for(2);
    drop(client);
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["route"]), (&json!("client_gone"), &json!("room")), "{line}");
}

#[test]
fn keys_that_are_too_old_are_not_used() {
    let (upstream, key) = (Upstream::bind(), NamedKey::new("a"));
    let provider = Provider::start(&[&key]);
    let gate = jwks_url(&provider).auth("keys_stale_for = \"2s\"").start(&upstream);
    let mut session = open(&gate, &upstream, &key);
    // The keys are fetched again before they are too old.
    provider.wait_for(3);
    provider.answer(|_| Some(answer("503 Service Unavailable", "")));
    gate.log.next("key set cannot be fetched");
    let until = Instant::now() + PATIENCE;
    loop {
        let mut client = Client::connect(&gate);
        client.send(&room(&key).bytes());
        let head = client.head();
        if head.status() == 503 {
            break;
        }
        drop(upstream.accept());
        assert!(Instant::now() < until, "the keys are still used");
    }
    let line = gate.log.next("key set is unusable: it is older than keys_stale_for");
    assert_eq!((&line["auth"], &line["level"]), (&json!("users"), &json!("ERROR")), "{line}");
    // An outage of the issuer ends no session.
    session.echo("hello");
    // Another reason is logged.
    provider.answer(|_| Some(answer("200 OK", "<html>")));
    let failed = gate.log.next("key set cannot be fetched");
    assert!(failed["error"].as_str().unwrap().contains("not JSON"), "{failed}");
    provider.publish(&[&key]);
    gate.log.next("key set fetched again");
    assert_eq!(gate.log.next("key set is usable again")["auth"], "users");
    open(&gate, &upstream, &key).close();
    session.close();
}

/// Answers as an issuer whose configuration has this issuer and set.
fn configure(provider: &Provider, issuer: &str, key: &NamedKey) {
    let configuration = json!({ "issuer": issuer, "jwks_uri": provider.url("/realm/keys") }).to_string();
    let keys = json!({ "keys": [key.jwk()] }).to_string();
    provider.answer(move |path| {
        Some(match path {
            "/realm/.well-known/openid-configuration" => answer("200 OK", &configuration),
            "/realm/keys" => answer("200 OK", &keys),
            _ => answer("404 Not Found", ""),
        })
    });
}

#[test]
fn the_configuration_of_the_issuer_names_the_keys() {
    let (upstream, key) = (Upstream::bind(), NamedKey::new("a"));
    let provider = Provider::start(&[]);
    let issuer = provider.url("/realm");
    configure(&provider, &issuer, &key);
    let setup = Setup::new().auth(&format!("discovery = true\nissuer = {issuer:?}"));
    let gate = setup.start(&upstream);
    let request = Request::to("/room/blue").bearer(&key.token(&json!({ "iss": issuer })));
    Session::open_with(&gate, &upstream, &request, &[]).close();
    assert_eq!(provider.paths(), ["/realm/.well-known/openid-configuration", "/realm/keys"]);
    assert_eq!(status(&gate, &key), 401, "a token of another issuer");
}

#[test]
fn the_configuration_of_another_issuer_is_not_used() {
    let (upstream, key) = (Upstream::bind(), NamedKey::new("a"));
    let provider = Provider::start(&[]);
    let issuer = provider.url("/realm");
    configure(&provider, "https://other.example.com", &key);
    let setup = Setup::new().auth(&format!("discovery = true\nissuer = {issuer:?}"));
    let gate = setup.start(&upstream);
    let request = Request::to("/room/blue").bearer(&key.token(&json!({ "iss": issuer })));
    expect_unavailable(&ask(&gate, &request));
    let failed = gate.log.next("key set cannot be fetched");
    assert_eq!(failed["error"], "the configuration is that of another issuer", "{failed}");
    configure(&provider, &issuer, &key);
    gate.log.next("key set fetched");
    Session::open_with(&gate, &upstream, &request, &[]).close();
}

#[test]
fn a_reload_keeps_the_keys_of_the_same_url() {
    let (upstream, key) = (Upstream::bind(), NamedKey::new("a"));
    let provider = Provider::start(&[&key]);
    let gate = jwks_url(&provider).start(&upstream);
    open(&gate, &upstream, &key).close();
    provider.answer(|_| None);
    // The issuer does not answer now, and the keys are there.
    gate.reload(|text| text.replace("leeway = \"0s\"", "leeway = \"1s\"\nkeys_stale_for = \"12h\""));
    open(&gate, &upstream, &key).close();
    assert_eq!(provider.paths(), ["/keys"]);
}

#[test]
fn a_reload_with_another_url_ends_the_sessions_whose_keys_are_not_there() {
    let (upstream, [old, kept]) = (Upstream::bind(), ["old", "kept"].map(NamedKey::new));
    let provider = Provider::start(&[&old, &kept]);
    let gate = jwks_url(&provider).start(&upstream);
    let (mut lost, mut stays) = (open(&gate, &upstream, &old), open(&gate, &upstream, &kept));
    let keys = json!({ "keys": [kept.jwk()] }).to_string();
    provider.answer(move |path| (path == "/other").then(|| answer("200 OK", &keys)));
    let line = gate.reload(|text| text.replace("/keys\"", "/other\""));
    assert_eq!((&line["ended"], &line["kept"]), (&json!(0), &json!(2)), "the keys are not fetched yet: {line}");
    assert_eq!(lost.client.expect_close(1008), "no longer admitted");
    stays.echo("hello");
    open(&gate, &upstream, &kept).close();
    stays.close();
}

pub fn check_online(gate: &Gate) -> (Option<i32>, String, String) {
    let file = gate.folder.path("tollgate.toml");
    let arguments = ["check", "--online", "--config", file.to_str().unwrap()];
    let Output { status, stdout, stderr } = command(None, &arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_online_fetches_every_key_set() {
    let (upstream, key) = (Upstream::bind(), NamedKey::new("a"));
    let provider = Provider::start(&[&key]);
    let gate = jwks_url(&provider).start(&upstream);
    let (code, out, err) = check_online(&gate);
    assert_eq!(code, Some(0), "{err}");
    let url = provider.url("/keys");
    let [keys, summary] = out.lines().collect::<Vec<_>>()[..] else { panic!("{out}") };
    assert!(keys.ends_with(&format!("auth \"users\": 1 keys, 1 for `algorithms`, from {url}")), "{out}");
    assert!(summary.contains("tollgate.toml: ok ("), "{out}");
    provider.answer(|_| Some(answer("500 Internal Server Error", "")));
    let (code, out, err) = check_online(&gate);
    assert_eq!((code, &*out), (Some(1), ""), "{err}");
    assert!(err.ends_with(&format!("auth \"users\": {url}: the status is 500 instead of 200\n")), "{err}");
    let ed25519: Value =
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let keys = json!({ "keys": [ed25519] }).to_string();
    provider.answer(move |_| Some(answer("200 OK", &keys)));
    let (code, out, err) = check_online(&gate);
    assert_eq!((code, &*out), (Some(1), ""), "{err}");
    assert!(err.ends_with("no key of the set fits `algorithms`\n"), "{err}");
}
