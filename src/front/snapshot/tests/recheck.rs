//! Checks of open sessions against the next snapshot.

use jsonwebtoken::{EncodingKey, Header};

use super::*;
use crate::policy::recheck::{OpenSession, Recheck};
use crate::policy::session_slots::Holder;
use crate::policy::shared_slots::SharedSlots;

/// The time of the tests, since the Unix epoch.
const UNIX: Duration = Duration::from_secs(1_800_000_000);

pub(super) fn clocks() -> Clocks {
    Clocks { instant: clock::now(), unix: UNIX }
}

/// Returns a token that the section `users` of the test configuration accepts.
pub(super) fn token() -> String {
    let claims = serde_json::json!({ "sub": "ann", "exp": UNIX.as_secs() + 600, "role": "admin", "room": "blue" });
    let header = Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(b"a secret of thirty-two bytes ...")).unwrap()
}

pub(super) fn facts<'a>(path: &'a str, headers: &'a HeaderMap) -> RequestFacts<'a> {
    RequestFacts {
        kind: RequestKind::WebSocket,
        authority: "a.example",
        path,
        query: None,
        origin: Some(b"https://a.example"),
        headers,
        protocols: &[],
        address: CLIENT,
        scheme: Scheme::Https,
        id: 1,
    }
}

/// Two sections that accept the same tokens.
const PEOPLE: &str = "[auth.people]\nsecret_file = \"secret\"\nalgorithms = [\"HS256\"]\n[auth.users]";

/// Opens a session at `path` by the test configuration, and returns the result of its check after these replacements:
/// what the check decides, and the rule or whether the terms changed.
fn recheck(path: &str, replacements: &[(&str, &str)]) -> (&'static str, &'static str) {
    recheck_later(path, &[], replacements, Duration::ZERO)
}

/// Opens a session after the first replacements, and checks it after the others, this much later.
fn recheck_later(
    path: &str,
    first: &[(&str, &str)],
    replacements: &[(&str, &str)],
    later: Duration,
) -> (&'static str, &'static str) {
    let (files, counters) = (InMemory::new(), Arc::default());
    let before = build(None, &config(&files, first), &counters);
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", token()).parse().unwrap());
    let admission = before.policy().admit(&facts(path, &headers), clocks()).unwrap();
    let server = admission.pool().servers().next().unwrap().name().clone();
    let after = build(Some(&before), &config(&files, replacements), &counters);
    let (route, grant, holder) = (admission.route(), admission.grant(), Holder { id: 1, opened: clocks().instant });
    let session = OpenSession { route, grant, path: Some(path), server: &server, holder };
    let Clocks { instant, unix } = clocks();
    match after.policy().recheck(&session, Clocks { instant: instant + later, unix: unix + later }) {
        Recheck::Unchanged => ("unchanged", ""),
        Recheck::Admitted(terms) => ("admitted", if terms.changes.is_some() { "changed" } else { "same terms" }),
        Recheck::Expired(terms) => ("expired", if terms.changes.is_some() { "changed" } else { "same terms" }),
        Recheck::Rejected(rejection) => ("rejected", rejection.label()),
        Recheck::Unserved(terms) => ("unserved", if terms.changes.is_some() { "changed" } else { "same terms" }),
        Recheck::Removed(removed, _) => ("removed", removed.label()),
    }
}

#[test]
fn open_sessions_are_checked_against_the_next_snapshot() {
    let chat: &[(&[(&str, &str)], (&str, &str))] = &[
        (&[], ("unchanged", "")),
        (&[("\"127.0.0.1:9002\"", "\"127.0.0.1:9003\"")], ("unchanged", "")),
        (&[("sessions_per_address = 2", "sessions_per_address = 1")], ("admitted", "changed")),
        (&[("sessions_per_address = 2", "message_rate = \"5/s\"")], ("admitted", "changed")),
        (&[("path = \"/chat\"", "path = \"/chat\"\npass_headers = [\"X-Real-IP\"]")], ("admitted", "same terms")),
        (&[("path = \"/chat\"", "path = \"/{room}\"")], ("admitted", "same terms")),
        (&[("path = \"/chat\"", "path = \"/talk\"")], ("removed", "path_changed")),
        (&[("path = \"/chat\"", "path = \"/chat\"\nhost = \"a.example\"")], ("admitted", "same terms")),
        (&[("path = \"/chat\"", "path = \"/chat\"\nhost = \"b.example\"")], ("removed", "host_changed")),
        (&[("name = \"chat\"", "name = \"talk\"")], ("removed", "route_removed")),
        (&[("upstream = \"blue\"", "upstream = \"green\"")], ("removed", "upstream_changed")),
        (&[("\"127.0.0.1:9001\"", "\"127.0.0.1:9003\"")], ("unserved", "same terms")),
        (&[("\"127.0.0.1:9001\"", "\"127.0.0.1:9003\", \"127.0.0.1:9001\"")], ("admitted", "same terms")),
        (
            &[("\"127.0.0.1:9001\"", "\"127.0.0.1:9003\""), ("sessions_per_address = 2", "message_rate = \"5/s\"")],
            ("unserved", "changed"),
        ),
        (
            &[("\"127.0.0.1:9001\"", "\"127.0.0.1:9003\""), ("auth = \"none\"", "auth = \"users\"")],
            ("rejected", "no_token"),
        ),
        (&[("auth = \"none\"", "auth = \"users\"")], ("rejected", "no_token")),
        (&[("path = \"/chat\"", "path = \"/chat\"\ndeny_addresses = [\"192.0.2.0/24\"]")], ("rejected", "address")),
        (&[("path = \"/chat\"", "path = \"/chat\"\norigins = [\"https://b.example\"]")], ("rejected", "origin")),
        (&[("path = \"/chat\"", "path = \"/chat\"\norigins = [\"https://a.example\"]")], ("admitted", "same terms")),
    ];
    for (replacements, expected) in chat {
        assert_eq!(recheck("/chat", replacements), *expected, "{replacements:?}");
    }
    let auth = "algorithms = [\"HS256\"]";
    let issuer = format!("{auth}\nissuer = \"another\"");
    let leeway = format!("{auth}\nleeway = \"1s\"");
    let feed: &[(&[(&str, &str)], (&str, &str))] = &[
        (&[], ("unchanged", "")),
        (&[("auth = \"users\"", "auth = \"none\"")], ("admitted", "changed")),
        (&[(auth, &issuer)], ("rejected", "token")),
        (&[(auth, &leeway)], ("admitted", "changed")),
        (&[("secret_file = \"secret\"", "secret_file = \"other\"")], ("rejected", "token")),
        // The claim was not kept by the earlier snapshot.
        (&[("auth = \"users\"", "auth = \"users\"\nrequire = { role = \"admin\" }")], ("admitted", "same terms")),
        (&[("auth = \"users\"", "auth = \"users\"\nrequire = { role = \"guest\" }")], ("rejected", "claims")),
        (
            &[
                ("path = \"/feed\"", "path = \"/{room}\""),
                ("auth = \"users\"", "auth = \"users\"\nrequire = { room = \"{room}\" }"),
            ],
            ("rejected", "claims"),
        ),
        // Another section is another identity, even with the same rules.
        (&[("[auth.users]", "[auth.people]"), ("auth = \"users\"", "auth = \"people\"")], ("rejected", "no_token")),
        (
            &[("auth = \"users\"", "auth = [\"people\", \"users\"]"), ("[auth.users]", PEOPLE)],
            ("admitted", "same terms"),
        ),
    ];
    for (replacements, expected) in feed {
        assert_eq!(recheck("/feed", replacements), *expected, "{replacements:?}");
    }
}

/// A placeholder that a reload renamed has the new name in every later check, too.
#[test]
fn the_values_of_placeholders_have_the_names_of_the_last_route() {
    let (files, counters) = (InMemory::new(), Arc::default());
    let step = |before: Option<&Snapshot>, name: &str, leeway: &str| {
        let (path, leeway) =
            (format!("path = \"/{{{name}}}\""), format!("algorithms = [\"HS256\"]\nleeway = {leeway:?}"));
        let require = format!("auth = \"users\"\nrequire = {{ room = \"{{{name}}}\" }}");
        let replacements =
            [("path = \"/feed\"", &*path), ("auth = \"users\"", &require), ("algorithms = [\"HS256\"]", &leeway)];
        build(before, &config(&files, &replacements), &counters)
    };
    let first = step(None, "room", "1s");
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", token()).parse().unwrap());
    let admission = first.policy().admit(&facts("/blue", &headers), clocks()).unwrap();
    let (mut route, grant) = (Arc::clone(admission.route()), Arc::clone(admission.grant()));
    let second = step(Some(&first), "channel", "1s");
    let third = step(Some(&second), "channel", "2s");
    let holder = Holder { id: 1, opened: clocks().instant };
    for snapshot in [&second, &third] {
        let (path, server) = (Some("/blue"), "127.0.0.1:9002");
        let session = OpenSession { route: &route, grant: &grant, path, server, holder };
        let Recheck::Admitted(terms) = snapshot.policy().recheck(&session, clocks()) else { panic!("not admitted") };
        route = terms.route;
    }
}

/// A session whose deadline moves into the past is expired by its new terms; one that has time left is admitted.
#[test]
fn changes_of_the_expiry_reach_open_sessions() {
    let algorithms = "algorithms = [\"HS256\"]";
    let ignore = format!("{algorithms}\non_expiry = \"ignore\"");
    let grace = format!("{algorithms}\nexpiry_grace = \"1h\"");
    let code = format!("{algorithms}\nexpiry_close_code = 4001");
    let aged = "auth = \"users\"\nlimits = { max_session_age = \"1h\" }";
    let (plain, none): ((&str, &str), &[(&str, &str)]) = ((algorithms, algorithms), &[]);
    let (ignore, grace, code) = ((algorithms, &*ignore), (algorithms, &*grace), (algorithms, &*code));
    // The token expires after 600 s, and the leeway is 30 s.
    let table: &[(&[(&str, &str)], &[(&str, &str)], u64, (&str, &str))] = &[
        (none, &[code], 0, ("admitted", "changed")),
        (none, &[grace], 0, ("admitted", "changed")),
        (none, &[ignore], 0, ("admitted", "changed")),
        (none, &[("auth = \"users\"", aged)], 0, ("admitted", "changed")),
        (&[grace], &[plain], 600, ("admitted", "changed")),
        (&[grace], &[plain], 630, ("expired", "changed")),
        (&[grace], &[code], 629, ("admitted", "changed")),
        (&[ignore], &[grace], 4_229, ("admitted", "changed")),
        (&[ignore], &[grace], 4_230, ("expired", "changed")),
        (&[grace], &[ignore], 3_000, ("admitted", "changed")),
        (&[ignore], &[ignore, ("auth = \"users\"", aged)], 10_000, ("admitted", "changed")),
        (&[ignore], &[ignore, ("path = \"/feed\"", "path = \"/{room}\"")], 10_000, ("admitted", "same terms")),
    ];
    for (first, then, later, expected) in table {
        let found = recheck_later("/feed", first, then, Duration::from_secs(*later));
        assert_eq!(found, *expected, "{first:?}, then {then:?} after {later} s");
    }
}

/// A limit that is new counts the sessions that are open already, and ends none of them.
#[test]
fn a_new_limit_of_sessions_counts_open_sessions() {
    let (files, counters) = (InMemory::new(), Arc::default());
    let before = build(None, &config(&files, &[("sessions_per_address = 2", "")]), &counters);
    let headers = HeaderMap::new();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(before.policy().admit(&facts("/chat", &headers), clocks()).unwrap());
    }
    let after = build(Some(&before), &config(&files, &[]), &counters);
    let mut leases = Vec::new();
    for admission in open {
        let (route, grant) = (Arc::clone(admission.route()), Arc::clone(admission.grant()));
        let holder = Holder { id: 1, opened: clocks().instant };
        let session =
            OpenSession { route: &route, grant: &grant, path: Some("/chat"), server: "127.0.0.1:9001", holder };
        let Recheck::Admitted(terms) = after.policy().recheck(&session, clocks()) else { panic!("not admitted") };
        let mut lease = admission.into_lease();
        lease.add_client(terms.changes.unwrap().slots);
        leases.push(lease);
    }
    let admits = || after.policy().admit(&facts("/chat", &headers), clocks()).map_err(|rejected| rejected.rejection);
    assert_eq!(admits().err(), Some(Rejection::AddressSessions));
    leases.truncate(1);
    assert!(admits().is_ok());
}

/// A later answer of a service is judged by the route of the session, whose placeholders may have been renamed.
#[test]
fn a_later_answer_is_judged_by_the_rules_of_the_session() {
    use http::HeaderValue;

    use crate::policy::evidence::Evidence;
    use crate::policy::forward::{Answered, ForwardAnswer};
    use crate::policy::recheck::admits_answer;

    const SSO: &str = "[auth.sso]\nkind = \"forward\"\nurl = \"http://127.0.0.1:1/\"\nresponse_headers = [\"x-rooms\"]\n\
                       subject_header = \"x-user\"\n[auth.users]";
    let (files, counters) = (InMemory::new(), Arc::default());
    let route = |name: &str| {
        format!("path = \"/{{{name}}}\"\norigins = [\"https://a.example\"]\nrequire = {{ x-rooms = \"{{{name}}}\" }}")
    };
    let configured = |name: &str| {
        let replacements =
            [("[auth.users]", SSO), ("auth = \"users\"", "auth = \"sso\""), ("path = \"/feed\"", &route(name))];
        config(&files, &replacements)
    };
    let before = build(None, &configured("room"), &counters);
    let headers = HeaderMap::new();
    let facts = facts("/blue", &headers);
    let candidate = before.policy().begin(&facts).unwrap();
    let Evidence::Ask(method, forward) = candidate.evidence().unwrap() else { panic!("the service is asked") };
    let answer = |user: &'static str, rooms: &'static str| {
        let lines = [("x-user", user), ("x-rooms", rooms)];
        let headers = lines.map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        Arc::new(ForwardAnswer::new(&headers.into_iter().collect(), forward.config()).unwrap())
    };
    let evidence =
        Evidence::Answer(method, Arc::clone(&forward), Answered { answer: answer("ann", "red, blue"), question: None });
    let admission =
        candidate.authenticate(&evidence, clocks()).unwrap().reserve(SharedSlots::default(), clocks()).unwrap();
    let grant = admission.grant();
    let holder = Holder { id: 1, opened: clocks().instant };
    let after = build(Some(&before), &configured("channel"), &counters);
    let renamed = after.policy().routes().named("feed").unwrap();
    for route in [admission.route(), renamed] {
        let session = OpenSession { route, grant, path: Some("/blue"), server: "127.0.0.1:9002", holder };
        assert!(admits_answer(&session, &answer("ann", "blue")));
        assert!(!admits_answer(&session, &answer("ann", "red")), "another room");
        assert!(!admits_answer(&session, &answer("eve", "blue")), "another subject");
    }
}
