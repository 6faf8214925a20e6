//! The page of the admin API, and the endpoints that it asks: figures, events, and the configuration with its state.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::admin::{Api, expect_closed};
use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki::token;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, refusing};

/// Returns the values of all series of `/metrics`.
fn metrics(api: &Api) -> BTreeMap<String, f64> {
    let (status, text) = api.ask("GET", "/metrics", None);
    assert_eq!(status, 200);
    let lines = text.as_str().unwrap().lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Returns the sum of the series of a metric that have all these labels.
fn sum(metrics: &BTreeMap<String, f64>, name: &str, labels: &Value) -> f64 {
    let labels: Vec<_> = labels.as_object().unwrap().iter().map(|(label, value)| format!("{label}={value}")).collect();
    let all = metrics.iter().filter(|(series, _)| series.split('{').next() == Some(name));
    let wanted = all.filter(|(series, _)| labels.iter().all(|label| series.contains(label.as_str())));
    wanted.map(|(_, value)| value).sum()
}

/// Waits for the newest event with this cause.
fn event(api: &Api, cause: &str) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let page = api.get("/v1/events");
        let found = page["events"].as_array().unwrap().iter().find(|event| event["cause"] == cause);
        if let Some(event) = found {
            return event.clone();
        }
        assert!(Instant::now() < until, "no {cause} in {page}");
    }
}

/// Returns a token for a room.
fn token_of(subject: &str, room: &str) -> String {
    token(&json!({ "sub": subject, "room": room }))
}

/// Returns the number of the line of the configuration that contains a text, counted from 1.
fn line_of(text: &str, wanted: &str) -> usize {
    text.lines().position(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{wanted} in {text}")) + 1
}

#[test]
fn the_page_runs_only_its_own_script_and_has_no_data() {
    let upstream = Upstream::bind();
    let (api, _gate) = Api::start(&upstream);
    let mut answer = String::new();
    api.send("GET", "/", None).read_to_string(&mut answer).unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    let headers: BTreeMap<_, _> = head.lines().filter_map(|line| line.split_once(": ")).collect();
    let policy = headers["content-security-policy"];
    for (start, end) in [("<script>", "</script>"), ("<style>", "</style>")] {
        let (_, rest) = page.split_once(start).unwrap();
        let (content, after) = rest.split_once(end).unwrap();
        let source = format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, content.as_bytes())));
        assert!(policy.contains(&source), "{source} in {policy}");
        assert!(!content.is_empty() && !after.contains(start), "{start} is there once");
    }
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    assert!(
        policy.contains("frame-ancestors 'none'") && policy.contains("require-trusted-types-for 'script'"),
        "{policy}"
    );
    assert_eq!((headers["referrer-policy"], headers["cross-origin-opener-policy"]), ("no-referrer", "same-origin"));
    assert!(!page.contains("{{") && page.contains("<title>"), "every marker is replaced");
}

#[test]
fn the_figures_of_this_moment_are_those_of_the_metrics() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let mut session = Session::open_at(&gate, &upstream, "/room/blue", &token_of("ann", "blue"));
    let closed = Session::open(&gate, &upstream);
    closed.close();
    assert_eq!(Client::connect(&gate).ask(&Request::to("/nowhere")).head.status(), 404);
    session.echo("again");
    event(&api, "closed");
    let until = Instant::now() + PATIENCE;
    loop {
        let (history, metrics) = (api.get("/v1/history"), metrics(&api));
        assert_eq!(history["interval_seconds"], 10);
        let times = history["times"].as_array().unwrap().len();
        let series = history["series"].as_array().unwrap();
        // Figures that change by themselves, and connections that are being closed.
        let is_steady = |name: &str| !name.starts_with("process_") && name != "tollgate_connections";
        let mut differing = Vec::new();
        for one in series.iter().filter(|one| is_steady(one["name"].as_str().unwrap())) {
            let values = one["values"].as_array().unwrap();
            assert_eq!(values.len(), times, "{one}");
            let expected = sum(&metrics, one["name"].as_str().unwrap(), &one["labels"]);
            if values.last().unwrap().as_f64() != Some(expected) {
                differing.push((one.clone(), expected));
            }
        }
        let value = |name: &str, labels: Value| {
            let found = series.iter().find(|one| one["name"] == name && one["labels"] == labels);
            found.and_then(|one| one["values"].as_array()?.last()?.as_u64())
        };
        let figures = [
            value("tollgate_sessions", json!({})),
            value("tollgate_messages_total", json!({ "direction": "in" })),
            value("tollgate_upgrades_total", json!({ "outcome": "accepted" })),
            value("tollgate_upgrades_total", json!({ "outcome": "no_route" })),
            value("tollgate_closes_total", json!({ "code": "1000", "by": "client" })),
            value("tollgate_close_causes_total", json!({ "cause": "closed", "by": "client" })),
            value(
                "tollgate_upstream_sessions",
                json!({ "upstream": "main", "server": upstream.address().to_string() }),
            ),
        ];
        // The first sample is taken at the start.
        if differing.is_empty() && figures == [1, 2, 2, 1, 1, 1, 1].map(Some) && times >= 2 {
            break;
        }
        assert!(Instant::now() < until, "{differing:#?} {figures:?}");
    }
    for query in ["since=x", "since=-1", "until=1"] {
        assert_eq!(api.ask("GET", &format!("/v1/history?{query}"), None).0, 400, "{query}");
    }
    drop(session);
}

/// The dialogs say that a change reaches the sessions of other nodes only if it does.
#[test]
fn the_nodes_say_whether_operations_reach_all_of_them() {
    let upstream = Upstream::bind();
    for (cluster, expected) in [
        ("", Value::Null),
        ("[cluster]\nurl = \"unix:/nonexistent/redis.sock\"\n", json!(true)),
        ("[cluster]\nurl = \"unix:/nonexistent/redis.sock\"\nshare = [\"quotas\"]\n", json!(false)),
    ] {
        let api = Api::new();
        let gate = Setup::new().more(&api.section()).more(cluster).start(&upstream);
        assert_eq!(api.get("/v1/nodes")["shares_sessions"], expected, "{cluster}");
        drop(gate);
    }
}

#[test]
fn an_event_names_the_rule_its_line_and_the_client() {
    let upstream = Upstream::bind();
    let api = Api::new();
    let setup = Setup::new()
        .more(&api.section())
        .route("origins = [\"https://chat.example.com\"]")
        .limits("message_rate = \"1/h\"\nmessage_burst = 1");
    let gate = setup.start(&upstream);
    let text = std::fs::read_to_string(gate.folder.path("tollgate.toml")).unwrap();

    let request = Request::to("/open/?token=secret-in-the-query").with("Origin: https://evil.example");
    assert_eq!(Client::connect(&gate).ask(&request).head.status(), 403);
    let refused = event(&api, "origin");
    let shown = |name: &str| refused[name].as_str().unwrap_or("null").to_owned();
    assert_eq!(
        (shown("kind"), refused["status"].as_u64(), shown("route")),
        ("rejection".into(), Some(403), "open".into())
    );
    assert_eq!(
        (shown("origin"), shown("path"), shown("address")),
        ("https://evil.example".into(), "/open/".into(), "127.0.0.1".into())
    );
    let explanation = &refused["explanation"];
    assert!(explanation["text"].as_str().unwrap().contains("https://evil.example"), "{explanation}");
    let expected = json!({ "section": "[[route]] \"open\"", "key": "origins", "line": line_of(&text, "origins = "), "is_set": true });
    assert_eq!((&explanation["settings"][0], &explanation["is_current"]), (&expected, &json!(true)));
    assert_eq!(refused["id"].as_str().unwrap().len(), 32);

    let token = token_of("ann", "blue");
    let mut session = Session::open_at(&gate, &upstream, "/room/blue", &token);
    let id = session.asked.get("x-request-id").unwrap().to_owned();
    session.client.send_text("too much");
    session.expect_closed(1008, "message rate exceeded");
    let ended = event(&api, "message_rate");
    assert_eq!((ended["id"].as_str(), &ended["kind"], &ended["code"]), (Some(&*id), &json!("end"), &json!(1008)));
    assert_eq!((&ended["by"], &ended["reason"]), (&json!("tollgate"), &json!("message rate exceeded")));
    assert_eq!((&ended["subject"], &ended["auth"], &ended["messages_in"]), (&json!("ann"), &json!("users"), &json!(1)));
    let setting = &ended["explanation"]["settings"][0];
    assert_eq!((&setting["section"], &setting["key"]), (&json!("[route.limits] of \"room\""), &json!("message_rate")));
    let all = api.get("/v1/events?limit=1000").to_string();
    assert!(!all.contains("secret-in-the-query") && !all.contains(&token), "{all}");

    // After a reload the lines may be others.
    assert_eq!(api.ask("POST", "/v1/reload", None).0, 200);
    assert_eq!(event(&api, "origin")["explanation"]["is_current"], json!(false));
}

#[test]
fn an_event_says_which_rule_of_a_reload_ended_a_session() {
    let upstream = Upstream::bind();
    let api = Api::new();
    let gate = Setup::new().more(&api.section()).server("recheck_max = \"off\"").start(&upstream);
    let session = Session::open_at(&gate, &upstream, "/room/blue", &token_of("ann", "blue"));
    drop(
        gate.reload(|text| {
            text.replace("[auth.users]\nissuer = \"", "[auth.users]\nissuer = \"https://other.example/")
        }),
    );
    expect_closed(session, 1008, "no longer admitted");
    let ended = event(&api, "not_admitted");
    assert_eq!((&ended["rule"], &ended["kind"]), (&json!("token"), &json!("end")), "{ended}");
    let settings = ended["explanation"]["settings"].as_array().unwrap();
    assert!(settings.iter().any(|setting| setting["key"] == "issuer" && setting["is_set"] == true), "{ended}");
}

#[test]
fn a_path_with_a_slash_more_is_explained_by_the_route_without_it() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    assert_eq!(Client::connect(&gate).ask(&Request::to("/room/blue/")).head.status(), 404);
    let refused = event(&api, "no_route");
    let advice = refused["explanation"]["advice"].as_str().unwrap();
    assert!(advice.starts_with("The route \"room\" serves this path with a slash more or less at its end"), "{advice}");
}

#[test]
fn events_come_in_pages_from_the_newest_on() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    for path in ["/a", "/b", "/c"] {
        assert_eq!(Client::connect(&gate).ask(&Request::to(path)).head.status(), 404);
        event(&api, "no_route");
    }
    let paths = |page: &Value| {
        let events = page["events"].as_array().unwrap().iter();
        events.map(|event| event["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = api.get("/v1/events?limit=2");
    let second = api.get(&format!("/v1/events?limit=2&cursor={}", first["cursor"].as_str().unwrap()));
    assert_eq!((paths(&first), paths(&second)), (vec!["/c".into(), "/b".into()], vec!["/a".into()]));
    assert_eq!(second["cursor"], Value::Null);
    for query in ["limit=0", "limit=1001", "cursor=x", "cursor=-1", "kind=end"] {
        assert_eq!(api.ask("GET", &format!("/v1/events?{query}"), None).0, 400, "{query}");
    }
}

#[test]
fn subjects_and_addresses_of_events_are_shown_as_in_the_log() {
    let upstream = Upstream::bind();
    let api = Api::new();
    let gate = Setup::new().more(&api.section()).log("subject = \"omit\"\naddress = \"hash\"").start(&upstream);
    let session = Session::open_at(&gate, &upstream, "/room/blue", &token_of("ann", "blue"));
    session.close();
    let ended = event(&api, "closed");
    assert_eq!((&ended["subject"], ended["address"].as_str().unwrap().len()), (&Value::Null, 16));
}

#[test]
fn routes_upstreams_auths_and_certificates_are_shown_with_their_lines_and_counts() {
    let upstream = Upstream::bind();
    let api = Api::new();
    // The socket keeps its address from being used by another test.
    let (_socket, dead) = refusing();
    let gate = Setup::new().more(&api.section()).room_limits("message_max_size = \"4KiB\"").to(dead).start(&upstream);
    let text = std::fs::read_to_string(gate.folder.path("tollgate.toml")).unwrap();
    let mut session = Session::open_at(&gate, &upstream, "/room/blue", &token_of("ann", "blue"));
    session.echo("more");
    assert_eq!(Client::connect(&gate).ask(&Request::to("/room/red")).head.status(), 401);
    event(&api, "no_token");
    let named = |list: &Value, name: &str| {
        let found = list.as_array().unwrap().iter().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("{name} in {list}")).clone()
    };

    let routes = api.get("/v1/routes");
    let room = named(&routes["routes"], "room");
    let settings = room["settings"].as_array().unwrap();
    let path = json!({ "key": "path", "value": "\"/room/{room}\"", "line": line_of(&text, "path = \"/room") });
    let size =
        json!({ "key": "limits.message_max_size", "value": "\"4KiB\"", "line": line_of(&text, "message_max_size") });
    assert!(settings.contains(&path) && settings.contains(&size), "{room}");
    assert_eq!((&room["upstream"], &room["auth"], &room["sessions"]), (&json!("main"), &json!(["users"]), &json!(1)));
    assert_eq!(room["outcomes"], json!({ "accepted": 1, "no_token": 1 }));
    assert_eq!(room["limits"]["message_max_bytes"], json!(4096));

    let main = named(&api.get("/v1/upstreams")["upstreams"], "main");
    assert_eq!((&main["line"], &main["routes"]), (&json!(line_of(&text, "[upstream.main]")), &json!(["open", "room"])));
    let servers = main["servers"].as_array().unwrap();
    let states: Vec<_> =
        servers.iter().map(|server| (server["state"].as_str().unwrap(), server["sessions"].as_u64())).collect();
    assert!(states.contains(&("up", Some(1))), "{main}");
    assert_eq!((servers.len(), &main["sessions"], &main["pending_requests"]), (2, &json!(1), &json!(0)));

    let users = named(&api.get("/v1/auths")["auths"], "users");
    assert_eq!((&users["kind"], &users["sessions"], &users["key_set"]), (&json!("jwt"), &json!(1), &Value::Null));
    assert_eq!((&users["routes"], &users["line"]), (&json!(["room"]), &json!(line_of(&text, "[auth.users]"))));

    let certificates = api.get("/v1/certificates");
    let certificate = &certificates["certificates"][0];
    assert!(certificate["names"].as_array().unwrap().contains(&json!("chat.example.com")), "{certificates}");
    assert!(certificate["days_left"].as_f64().unwrap() > 0.0 && certificate["expires"].is_string(), "{certificates}");
    assert_eq!(certificate["line"], json!(line_of(&text, "certificates = ")));
}

#[test]
fn the_list_of_upstreams_has_the_state_of_each_server() {
    let servers = [Upstream::bind(), Upstream::bind(), Upstream::bind()];
    let [up, full, draining] = [0, 1, 2].map(|index| servers[index].address());
    let list = format!(
        "servers = [\"{up}\", {{ address = \"{full}\", weight = 9, max_sessions = 1 }}, \
         {{ address = \"{draining}\", drain = true }}]"
    );
    let api = Api::new();
    let gate = Gate::start(Setup::new().more(&api.section()).upstream(&list));
    let session = Session::open(&gate, &servers[1]);
    let found = api.get("/v1/upstreams");
    let expected = [(up, "up", 1, Value::Null), (full, "full", 9, json!(1)), (draining, "draining", 1, Value::Null)];
    for (server, (address, state, weight, max)) in
        found["upstreams"][0]["servers"].as_array().unwrap().iter().zip(expected)
    {
        assert_eq!(server["address"], address.to_string());
        assert_eq!(
            (&server["state"], &server["weight"], &server["max_sessions"]),
            (&json!(state), &json!(weight), &max)
        );
        assert_eq!(server["drain"], state == "draining");
    }
    session.close();
}

#[test]
fn a_search_finds_sessions_by_any_of_their_facts() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let ann = Session::open_at(&gate, &upstream, "/room/blue", &token_of("ann", "blue"));
    let bob = Session::open_at(&gate, &upstream, "/room/red", &token_of("bob", "red"));
    let found = |text: &str| {
        let page = api.get(&format!("/v1/sessions?search={text}&limit=1"));
        (page["total"].as_u64().unwrap(), page["sessions"][0]["subject"].as_str().map(str::to_owned))
    };
    assert_eq!(found("ANN"), (1, Some("ann".to_owned())));
    assert_eq!(found("/room/r"), (1, Some("bob".to_owned())));
    assert_eq!(found(&ann.asked.get("x-request-id").unwrap().to_uppercase()[4..20]), (1, Some("ann".to_owned())));
    assert_eq!(found("127.0.0."), (2, Some("bob".to_owned())));
    assert_eq!(found("nobody"), (0, None));
    let long = "x".repeat(257);
    for query in ["search=", &format!("search={long}")] {
        assert_eq!(api.ask("GET", &format!("/v1/sessions?{query}"), None).0, 400, "{query}");
    }
    let close = json!({ "filter": { "search": "room/red" }, "code": 4000, "reason": "search" });
    assert_eq!(api.ask("POST", "/v1/sessions/close", Some(&close)), (202, json!({ "selected": 1 })));
    expect_closed(bob, 4000, "search");
    ann.close();
}

/// A page of a name that leads to the forwarded port of the socket is not a page of this API.
#[test]
fn a_browser_reaches_the_socket_only_by_a_name_of_this_machine() {
    use std::io::Write;
    let upstream = Upstream::bind();
    let (api, _gate) = Api::start(&upstream);
    let status = |host: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(api.socket()).unwrap();
        write!(stream, "GET /v1/info HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    for host in ["localhost", "localhost:9640", "127.0.0.1:9640", "[::1]:9640", "tollgate"] {
        assert_eq!(status(host), "200", "{host}");
    }
    for host in ["evil.example", "evil.example:9640", "evil:9640", "192.0.2.1", "[2001:db8::1]"] {
        assert_eq!(status(host), "403", "{host}");
    }
}
