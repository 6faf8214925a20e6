//! Admissions of sessions of another process, by the configuration of the next one.

use super::recheck::{clocks, facts, token};
use super::*;
use crate::balance::Server;
use crate::policy::grant::Grant;
use crate::policy::readmit::{ForeignSession, Readmitted};
use crate::policy::recheck::Removed;
use crate::policy::session_slots::Holder;

/// A process after its start: it has none of the counters of the one before.
struct NextProcess {
    snapshot: Snapshot,
    counters: Arc<Counters>,
}

impl NextProcess {
    fn start(files: &InMemory, replacements: &[(&str, &str)]) -> Self {
        let counters = Arc::default();
        Self { snapshot: build(None, &config(files, replacements), &counters), counters }
    }

    fn readmit(&self, session: &ForeignSession<'_>) -> Result<Readmitted, Removed> {
        self.snapshot.policy().readmit(session, clocks())
    }

    fn sessions_of(&self, upstream: &str) -> Vec<u32> {
        self.snapshot.pool(upstream).unwrap().servers().map(Server::sessions).collect()
    }
}

/// Admits a client at this path by the test configuration.
fn admitted(files: &InMemory, path: &str) -> Arc<Grant> {
    let before = build(None, &config(files, &[]), &Arc::default());
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", token()).parse().unwrap());
    Arc::clone(before.policy().admit(&facts(path, &headers), clocks()).unwrap().grant())
}

fn foreign<'a>(grant: &'a Grant, path: &'a str) -> ForeignSession<'a> {
    let [route, upstream, server] = match path {
        "/chat" => ["chat", "blue", "127.0.0.1:9001"],
        _ => ["feed", "green", "127.0.0.1:9002"],
    };
    ForeignSession {
        route,
        grant,
        path: Some(path),
        upstream,
        server,
        holder: Holder { id: 1, opened: clocks().instant },
        is_client_released: false,
        has_server: true,
        counts: (None, None),
    }
}

#[test]
fn a_session_is_admitted_by_the_rules_of_the_next_process() {
    let auth = "algorithms = [\"HS256\"]";
    let issuer = format!("{auth}\nissuer = \"another\"");
    let table: &[(&str, &[(&str, &str)], &str)] = &[
        ("/chat", &[], "admitted"),
        ("/chat", &[("name = \"chat\"", "name = \"talk\"")], "route_removed"),
        ("/chat", &[("path = \"/chat\"", "path = \"/chat\"\nhost = \"b.example\"")], "host_changed"),
        ("/chat", &[("path = \"/chat\"", "path = \"/chat\"\nhost = \"a.example\"")], "admitted"),
        ("/chat", &[("path = \"/chat\"", "path = \"/talk\"")], "path_changed"),
        ("/chat", &[("path = \"/chat\"", "path = \"/{room}\"")], "admitted"),
        ("/chat", &[("upstream = \"blue\"", "upstream = \"green\"")], "upstream_changed"),
        ("/chat", &[("\"127.0.0.1:9001\"", "\"127.0.0.1:9003\"")], "unserved"),
        ("/chat", &[("\"127.0.0.1:9001\"", "\"127.0.0.1:9003\", \"127.0.0.1:9001\"")], "admitted"),
        ("/chat", &[("path = \"/chat\"", "path = \"/chat\"\ndeny_addresses = [\"192.0.2.0/24\"]")], "address"),
        ("/chat", &[("path = \"/chat\"", "path = \"/chat\"\norigins = [\"https://b.example\"]")], "origin"),
        ("/chat", &[("auth = \"none\"", "auth = \"users\"")], "no_token"),
        ("/feed", &[], "admitted"),
        ("/feed", &[(auth, &issuer)], "token"),
        ("/feed", &[("secret_file = \"secret\"", "secret_file = \"other\"")], "token"),
        ("/feed", &[("auth = \"users\"", "auth = \"users\"\nrequire = { role = \"admin\" }")], "admitted"),
        ("/feed", &[("auth = \"users\"", "auth = \"users\"\nrequire = { role = \"guest\" }")], "claims"),
    ];
    let files = InMemory::new();
    for (path, replacements, expected) in table {
        let grant = admitted(&files, path);
        let found = match NextProcess::start(&files, replacements).readmit(&foreign(&grant, path)) {
            Ok(Readmitted { rejected: Some(rejection), .. }) => rejection.label(),
            Ok(Readmitted { is_served: false, .. }) => "unserved",
            Ok(_) => "admitted",
            Err(removed) => removed.label(),
        };
        assert_eq!(found, *expected, "{path} {replacements:?}");
    }
}

#[test]
fn sessions_take_slots_beyond_the_limits_and_release_them() {
    let (files, lowered) = (InMemory::new(), ("sessions_per_address = 2", "sessions_per_address = 1"));
    let (process, grant) = (NextProcess::start(&files, &[lowered]), admitted(&files, "/chat"));
    let session = foreign(&grant, "/chat");
    let first = process.readmit(&session).unwrap();
    let second = process.readmit(&session).unwrap();
    assert_eq!((process.counters.sessions(), process.sessions_of("blue")), (2, vec![2]));
    assert!(!first.lease.is_replaced() && first.lease.is_limited());
    let rejected = || admit(&process.snapshot, "/chat", CLIENT).err().map(|rejected| rejected.rejection.label());
    assert_eq!(rejected(), Some(Rejection::AddressSessions.label()));
    drop(first);
    assert_eq!(rejected(), Some(Rejection::AddressSessions.label()));
    drop(second);
    assert_eq!((process.counters.sessions(), process.sessions_of("blue")), (0, vec![0]));
    assert_eq!(rejected(), None);
}

#[test]
fn slots_that_were_released_and_servers_that_were_lost_are_not_counted() {
    let files = InMemory::new();
    let (process, grant) = (NextProcess::start(&files, &[]), admitted(&files, "/chat"));
    let session = ForeignSession { is_client_released: true, has_server: false, ..foreign(&grant, "/chat") };
    let readmitted = process.readmit(&session).unwrap();
    assert!(!readmitted.lease.is_limited() && readmitted.is_served);
    assert_eq!((process.counters.sessions(), process.sessions_of("blue")), (1, vec![0]));
}

#[test]
fn a_shared_count_is_the_highest_of_its_sessions() {
    let (files, now) = (InMemory::new(), clocks().instant);
    let limits = "message_rate = \"5/s\"\nrate_key = \"address\"";
    let (process, grant) =
        (NextProcess::start(&files, &[("sessions_per_address = 2", limits)]), admitted(&files, "/chat"));
    // The times differ by what passes between two readings of the clock.
    let count = |counted: i64| {
        let session = ForeignSession { counts: (Some(counted), None), ..foreign(&grant, "/chat") };
        process.readmit(&session).unwrap().shared.messages.unwrap().export(now)
    };
    let hour = 3_600_000_000_000;
    assert!((hour..hour + hour / 60).contains(&count(hour)));
    assert!((hour..hour + hour / 60).contains(&count(hour / 2)), "a lower count lowers none");
    assert!((2 * hour..2 * hour + hour / 60).contains(&count(2 * hour)));
}
