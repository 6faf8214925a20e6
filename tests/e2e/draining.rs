//! Replacing servers: drains by the configuration, the admin API and the command line, and rebalancing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::Api;
use crate::support::PATIENCE;
use crate::support::gate::{Gate, command};
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Frame;

/// Returns the value of `servers` with one table for each upstream, and these settings.
fn servers(list: &[(&Upstream, &str)]) -> String {
    let table = |(upstream, more): &(&Upstream, &str)| format!("{{ address = \"{}\"{more} }}", upstream.address());
    format!("servers = [{}]", list.iter().map(table).collect::<Vec<_>>().join(", "))
}

/// Starts a proxy with an admin API in front of servers.
fn start(list: &[(&Upstream, &str)], more: &str) -> (Api, Gate) {
    let api = Api::new();
    let setup = Setup::new().more(&api.section()).upstream(&servers(list)).upstream(more);
    (api, Gate::start(setup))
}

/// Opens a session, and waits until its messages pass: from then on it is registered.
fn open(gate: &Gate, upstream: &Upstream) -> Session {
    let mut session = Session::open(gate, upstream);
    session.echo("first");
    session
}

fn path(upstream: &Upstream) -> String {
    format!("/v1/upstreams/main/servers/{}", upstream.address().to_string().replace(':', "%3A"))
}

fn set(api: &Api, upstream: &Upstream, body: &Value) -> Value {
    let (status, answer) = api.ask("PATCH", &path(upstream), Some(body));
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Waits for the Close of the proxy at the client, and answers it at both ends.
fn expect_closed(mut session: Session, reason: &str) {
    assert_eq!(session.client.expect_close(1012), reason);
    assert_eq!(session.server.expect_close(1012), reason);
    session.client.send_frame(Frame::close(1012, ""));
    session.server.send_frame(Frame::close(1012, ""));
    session.client.expect_clean_end();
    session.server.expect_clean_end();
}

#[test]
fn a_reload_drains_a_server_at_its_rate_and_new_sessions_go_to_others() {
    let [old, new] = [Upstream::bind(), Upstream::bind()];
    let api = Api::new();
    let setup = Setup::new().more(&api.section()).upstream("drain_rate = \"10/s\"");
    let gate = Gate::start(setup.upstream(&servers(&[(&old, "")])));
    let sessions: Vec<Session> = (0..6).map(|_| open(&gate, &old)).collect();
    let begun = Instant::now();
    let (from, to) = (servers(&[(&old, "")]), servers(&[(&old, ", drain = true"), (&new, "")]));
    let line = gate.reload(|text| text.replace(&from, &to));
    assert_eq!(line["ended"], 0, "a drained server is no mistake: {line}");
    let line = gate.log.next("server drains");
    assert_eq!(
        (&line["sessions"], &line["rate"], &line["cause"], &line["server"]),
        (&json!(6), &json!("10/s"), &json!("configuration"), &json!(old.address().to_string()))
    );
    open(&gate, &new).close();
    sessions.into_iter().for_each(|session| expect_closed(session, "server drained"));
    // Two closings are apart by at least 50 ms. The process may be late, and then closes two at once.
    assert!(begun.elapsed() > Duration::from_millis(150), "{:?}", begun.elapsed());
    let line = gate.log.next("server drained");
    assert_eq!((&line["closed"], line["seconds"].as_f64().unwrap() < 60.0), (&json!(6), true), "{line}");
    old.assert_untouched();
}

#[test]
fn the_rate_is_kept_for_each_server() {
    let upstream = Upstream::bind();
    let (api, gate) = start(&[(&upstream, "")], "drain_rate = \"1/h\"");
    let mut sessions: Vec<Session> = (0..3).map(|_| open(&gate, &upstream)).collect();
    let answer = set(&api, &upstream, &json!({ "state": "drain" }));
    assert_eq!((&answer["drain_rate"], &answer["drain_seconds"]), (&json!("1/h"), &json!(10800.0)), "{answer}");
    gate.log.next("server drains");
    // The first one closes after half an hour at the earliest.
    sessions.iter_mut().for_each(|session| session.echo("still here"));
    assert_eq!(api.get("/v1/upstreams")["upstreams"][0]["servers"][0]["state"], "draining");
}

#[test]
fn an_operator_drains_a_server_and_undrain_keeps_the_sessions_that_are_left() {
    let [first, second] = [Upstream::bind(), Upstream::bind()];
    let (api, gate) = start(&[(&first, "")], "drain_rate = \"1/h\"");
    let mut session = open(&gate, &first);
    let answer = set(&api, &first, &json!({ "state": "drain" }));
    assert_eq!(
        (&answer["state"], &answer["operator_state"], &answer["drain"]),
        (&json!("draining"), &json!("drain"), &json!(false))
    );
    let line = gate.log.next("server drains");
    assert_eq!(line["cause"], "operator");
    assert!(gate.log.text().contains("state=drain"), "the audit line");
    // The only server drains.
    let rejected = Client::connect(&gate).ask(&crate::support::request::Request::to("/open/"));
    assert_eq!(rejected.head.status(), 503);
    // A reload keeps the override, as long as it does not change this setting.
    let (from, to) = (servers(&[(&first, "")]), servers(&[(&first, ""), (&second, "")]));
    gate.reload(|text| text.replace(&from, &to));
    let state = |index: usize| api.get("/v1/upstreams")["upstreams"][0]["servers"][index]["state"].clone();
    assert_eq!((state(0), state(1)), (json!("draining"), json!("slow start")));
    open(&gate, &second).close();

    let answer = set(&api, &first, &json!({ "state": "ready" }));
    assert_eq!((&answer["state"], &answer["operator_state"]), (&json!("slow start"), &Value::Null), "{answer}");
    gate.log.next("server drain stopped");
    session.echo("left");
    session.close();
}

#[test]
fn ready_overrides_the_configuration_until_that_changes() {
    let upstream = Upstream::bind();
    let (api, gate) = start(&[(&upstream, ", drain = true")], "");
    assert_eq!(set(&api, &upstream, &json!({ "state": "ready" }))["operator_state"], "ready");
    open(&gate, &upstream).close();
    let (from, to) = (servers(&[(&upstream, ", drain = true")]), servers(&[(&upstream, "")]));
    gate.reload(|text| text.replace(&from, &to));
    gate.reload(|text| text.replace(&to, &from));
    let server = api.get("/v1/upstreams")["upstreams"][0]["servers"][0].clone();
    assert_eq!((&server["state"], &server["operator_state"]), (&json!("draining"), &Value::Null), "{server}");
}

#[test]
fn a_server_that_is_down_closes_its_sessions_within_seconds() {
    let upstream = Upstream::bind();
    let (api, gate) = start(&[(&upstream, "")], "drain_rate = \"1/h\"");
    let session = open(&gate, &upstream);
    let answer = set(&api, &upstream, &json!({ "state": "down" }));
    assert_eq!((&answer["state"], &answer["drain_seconds"]), (&json!("down"), &json!(10.0)), "{answer}");
    expect_closed(session, "server drained");
    gate.log.next("server drained");
}

#[test]
fn the_sessions_of_a_removed_server_drain_and_those_that_are_left_stay_if_it_returns() {
    let [old, new] = [Upstream::bind(), Upstream::bind()];
    let api = Api::new();
    let setup = Setup::new().more(&api.section()).server("recheck_max = \"off\"");
    let gate = Gate::start(setup.upstream("drain_rate = \"1/h\"").upstream(&servers(&[(&old, "")])));
    let mut session = open(&gate, &old);
    let (from, to) = (servers(&[(&old, "")]), servers(&[(&new, "")]));
    let line = gate.reload(|text| text.replace(&from, &to));
    assert_eq!(line["ended"], 1, "{line}");
    assert_eq!(gate.log.next("server drains")["cause"], "removed");
    let removed = &api.get("/v1/upstreams")["upstreams"][0]["removed"];
    assert_eq!(*removed, json!([{ "address": old.address().to_string(), "sessions": 1 }]));
    // A session that drains already does not count again.
    let line = gate.reload(|text| text.replace("max_sessions = 32", "max_sessions = 33"));
    assert_eq!(line["ended"], 0, "{line}");
    let line = gate.reload(|text| text.replace("close_timeout", "message_max_size = \"10B\"\nclose_timeout"));
    assert_eq!(line["ended"], 0, "{line}");
    // It has the limits of the new configuration meanwhile.
    let listed = api.sessions("");
    let described = api.get(&format!("/v1/sessions/{}", listed[0]["id"].as_str().unwrap()));
    assert_eq!(described["limits"]["message_max_bytes"], 10);
    gate.reload(|text| text.replace(&to, &from));
    gate.log.next("server drain stopped");
    session.echo("left");
    // Removed again, and at a rate that ends it soon.
    gate.reload(|text| text.replace(&from, &to).replace("\"1/h\"", "\"100/s\""));
    expect_closed(session, "server drained");
    assert_eq!(gate.log.next("server drained")["closed"], 1);
}

/// A mistake in the file is refused, as one that rejects sessions is.
#[test]
fn a_reload_that_removes_too_many_servers_is_refused() {
    let [old, new] = [Upstream::bind(), Upstream::bind()];
    let gate = Setup::new().start(&old);
    let mut session = open(&gate, &old);
    gate.edit(|text| text.replace(&old.address().to_string(), &new.address().to_string()));
    gate.signal(rustix::process::Signal::HUP);
    gate.log.next("1 of 1 sessions would end, and recheck_max is 20%: --force permits it");
    session.echo("still here");
    session.close();
}

/// A session that the new configuration does not admit ends as such, although its server drains slowly.
#[test]
fn a_session_of_a_removed_server_that_is_not_admitted_ends_with_1008() {
    let [old, new] = [Upstream::bind(), Upstream::bind()];
    let setup = Setup::new().server("recheck_max = \"off\"").upstream("drain_rate = \"1/h\"");
    let gate = setup.start(&old);
    let mut session = open(&gate, &old);
    let denied = "auth = \"none\"\ndeny_addresses = [\"127.0.0.1\"]";
    let (from, to) = (old.address().to_string(), new.address().to_string());
    gate.reload(|text| text.replace(&from, &to).replace("auth = \"none\"", denied));
    assert_eq!(session.client.expect_close(1008), "no longer admitted");
}

#[test]
fn a_weight_changes_the_choice() {
    let [light, heavy] = [Upstream::bind(), Upstream::bind()];
    let (api, gate) = start(&[(&light, ""), (&heavy, "")], "");
    let answer = set(&api, &heavy, &json!({ "weight": 1000 }));
    assert_eq!((&answer["weight"], &answer["configured_weight"]), (&json!(1000), &json!(1)));
    // Each would have half of them, but a server gets 1000 sessions for each one of the other.
    let sessions: Vec<Session> = (0..6).map(|_| open(&gate, &heavy)).collect();
    light.assert_untouched();
    let (from, to) = (servers(&[(&light, ""), (&heavy, "")]), servers(&[(&light, ""), (&heavy, ", weight = 2")]));
    gate.reload(|text| text.replace(&from, &to));
    assert_eq!(api.get("/v1/upstreams")["upstreams"][0]["servers"][1]["weight"], 2, "the file has changed it");
    sessions.into_iter().for_each(Session::close);
}

#[test]
fn changes_that_are_not_possible_are_rejected() {
    let upstream = Upstream::bind();
    let (api, _gate) = start(&[(&upstream, "")], "");
    let own = path(&upstream);
    let drain = json!({ "state": "drain" });
    for (path, body, status, detail) in [
        ("/v1/upstreams/other/servers/a%3A1", &drain, 404, "there is no such upstream"),
        ("/v1/upstreams/main/servers/unix%3A%2Frun%2Fa.sock", &drain, 404, "the upstream has no such server"),
        (&*own, &json!({}), 400, "`state` or `weight` is needed"),
        (&*own, &json!({ "state": "up" }), 400, "`state` is \"ready\", \"drain\" or \"down\""),
        (&*own, &json!({ "weight": 1001 }), 400, "`weight` is from 1 to 1000"),
    ] {
        let (found, answer) = api.ask("PATCH", path, Some(body));
        assert_eq!((found, &answer["detail"]), (status, &json!(detail)), "{path} {body}");
    }
    assert_eq!(api.get("/v1/upstreams")["upstreams"][0]["servers"][0]["state"], "up");
}

/// Runs `tollgate upstreams`, and returns its output.
fn upstreams(api: &Api, arguments: &[&str], code: i32) -> String {
    let admin = format!("unix:{}", api.socket().display());
    let mut all = vec!["upstreams"];
    all.extend(arguments);
    all.extend(["--admin", &admin]);
    let output = command(None, &all).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[test]
fn the_command_lists_and_drains_servers() {
    let upstream = Upstream::bind();
    let (api, gate) = start(&[(&upstream, ", weight = 7")], "drain_rate = \"1/m\"");
    let address = upstream.address().to_string();
    let mut session = open(&gate, &upstream);
    let list = upstreams(&api, &[], 0);
    let line: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line, ["main", &address, "up", "7", "1", "-", "0"]);
    let drained = upstreams(&api, &["drain", "main", &address], 0);
    assert_eq!(
        drained,
        format!("{address} of main gets no new sessions; its 1 session will be closed at 1/m: about 1m00s\n")
    );
    gate.log.next("server drains");
    let undrained: Value = serde_json::from_str(&upstreams(&api, &["undrain", "main", &address, "--json"], 0)).unwrap();
    assert_eq!((&undrained["state"], &undrained["sessions"]), (&json!("slow start"), &json!(1)));
    gate.log.next("server drain stopped");
    session.echo("left");
    session.close();
    let listed: Value = serde_json::from_str(&upstreams(&api, &["--json"], 0)).unwrap();
    assert_eq!(listed["upstreams"][0]["name"], "main");
    assert_eq!(upstreams(&api, &["drain", "main", "a:1"], 1), "tollgate upstreams: the upstream has no such server\n");
    assert!(upstreams(&api, &["drain", "main"], 64).contains("<SERVER>"));
}

#[test]
fn a_token_that_may_only_read_drains_no_server() {
    let upstream = Upstream::bind();
    let setup = Setup::new()
        .more("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"all\"\nread_token_file = \"read\"")
        .file("all", "a-token-with-all-rights")
        .file("read", "a-token-that-may-read");
    let gate = setup.start(&upstream);
    let admin = admin_address(&gate);
    let ask = |method: &str, target: &str, body: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: {admin}\r\nAuthorization: Bearer a-token-that-may-read\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(ask("GET", "/v1/upstreams", ""), 200);
    assert_eq!(ask("PATCH", &path(&upstream), "{\"state\": \"drain\"}"), 403);
    open(&gate, &upstream).close();
}

/// Returns the address of the admin API from the log.
fn admin_address(gate: &Gate) -> String {
    let line = gate.log.wait_for("the admin API", |line| line.contains("\"admin API\""));
    let line: Value = serde_json::from_str(&line).unwrap();
    line["address"].as_str().unwrap().to_owned()
}

#[test]
fn an_overloaded_server_sheds_sessions_to_a_new_one() {
    let [old, new] = [Upstream::bind(), Upstream::bind()];
    let api = Api::new();
    let setup = Setup::new().more(&api.section()).more("[upstream.main.health]\nslow_start = \"0s\"");
    let gate = Gate::start(setup.upstream("rebalance = \"50%/s\"").upstream(&servers(&[(&old, "")])));
    let mut sessions: Vec<Session> = (0..6).map(|_| open(&gate, &old)).collect();
    let (from, to) = (servers(&[(&old, "")]), servers(&[(&old, ""), (&new, "")]));
    gate.reload(|text| text.replace(&from, &to));
    // The oldest three: the others are the share of this server.
    let mut left = sessions.split_off(3);
    let mut moved = Vec::new();
    for session in sessions {
        expect_closed(session, "rebalanced");
        moved.push(open(&gate, &new));
    }
    let line = gate.log.next("rebalanced");
    let from = format!("{} ", old.address());
    assert!(line["from"].as_str().unwrap().starts_with(&from) && line["upstream"] == "main", "{line}");
    left.iter_mut().for_each(|session| session.echo("left"));
    assert_eq!(api.sessions(&format!("server={}", old.address())).len(), 3);
}
