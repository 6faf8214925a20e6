//! Limits of sessions at the admission and at the opening of sessions.

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;
use crate::policy::grant::Lease;
use crate::policy::limits::{LimitAction, LimitKind};
use crate::policy::session_slots::SessionId;
use crate::policy::shared_slots::SharedSlots;

/// Returns the facts of a request of a session with this id.
pub(super) fn admission_facts(headers: &HeaderMap, id: SessionId) -> RequestFacts<'_> {
    RequestFacts {
        kind: RequestKind::WebSocket,
        authority: "localhost",
        path: "/chat",
        query: None,
        origin: None,
        headers,
        protocols: &[],
        address: CLIENT,
        scheme: Scheme::Https,
        id,
    }
}

/// Admits the request of a session with this id.
fn admit_as(snapshot: &Snapshot, id: SessionId) -> Result<Admission, Rejection> {
    let headers = HeaderMap::new();
    let facts = admission_facts(&headers, id);
    let now = Clocks { instant: clock::now(), unix: Duration::from_secs(1_800_000_000) };
    snapshot.policy().admit(&facts, now).map_err(|rejected| rejected.rejection)
}

/// Returns a snapshot whose route `chat` has this line in its limits.
pub(super) fn limited(counters: &Arc<Counters>, line: &str) -> Snapshot {
    let limits = format!("sessions_per_address = 2\n{line}");
    build(None, &config(&InMemory::new(), &[("sessions_per_address = 2", &limits)]), counters)
}

#[test]
fn a_session_takes_over_the_slot_of_the_oldest_when_it_opens() {
    let counters = Arc::default();
    let snapshot = limited(&counters, "on_session_limit = \"close_oldest\"");
    let mut admitted: Vec<_> = (0..5).map(|id| admit_as(&snapshot, id).unwrap()).collect();
    // The order in which the sessions open decides, and not that of their requests.
    let mut leases = Vec::new();
    for (index, replaced) in [(3, vec![]), (0, vec![]), (1, vec![3]), (0, vec![0])] {
        let mut admission = admitted.remove(index);
        assert_eq!(admission.open_session(&counters, SharedSlots::default(), clock::now()), replaced);
        leases.push(admission.into_lease());
    }
    assert_eq!(leases.iter().map(Lease::is_replaced).collect::<Vec<_>>(), [true, true, false, false]);
    assert!(leases.iter().all(Lease::is_limited));
    // A replaced session releases nothing, and the end of another one frees its slot.
    leases.drain(..3);
    let mut last = admitted.remove(0);
    assert_eq!(last.open_session(&counters, SharedSlots::default(), clock::now()), [0_u128; 0]);
}

#[test]
fn upgrades_that_are_not_opened_hold_no_slot() {
    let counters = Arc::default();
    let snapshot = limited(&counters, "on_session_limit = \"close_oldest\"");
    let waiting: Vec<_> = (0..20).map(|id| admit_as(&snapshot, id).unwrap()).collect();
    let mut first = admit_as(&snapshot, 100).unwrap();
    assert_eq!(first.open_session(&counters, SharedSlots::default(), clock::now()), [0_u128; 0]);
    drop(waiting);
    assert!(!first.into_lease().is_replaced());
}

#[test]
fn a_refusing_limit_is_taken_at_the_admission() {
    let counters = Arc::default();
    let snapshot = limited(&counters, "on_session_limit = \"refuse\"");
    let mut held: Vec<_> = (0..2).map(|id| admit_as(&snapshot, id).unwrap()).collect();
    assert_eq!(admit_as(&snapshot, 3).err(), Some(Rejection::AddressSessions));
    assert_eq!(held.remove(0).open_session(&counters, SharedSlots::default(), clock::now()), [0_u128; 0]);
    // Its slot is free again, and the next session can be replaced after a change of the treatment.
    assert!(admit_as(&snapshot, 4).is_ok());
    let closing = limited(&counters, "on_session_limit = \"close_oldest\"");
    let third = admit_as(&snapshot, 5).unwrap();
    let mut fourth = admit_as(&closing, 6).unwrap();
    assert_eq!(fourth.open_session(&counters, SharedSlots::default(), clock::now()), [1]);
    assert!(held.remove(0).into_lease().is_replaced() && !third.into_lease().is_replaced());
}

#[test]
fn a_limit_that_is_only_reported_admits_and_counts() {
    for line in ["mode = \"report\"", "mode = \"report\"\non_session_limit = \"close_oldest\""] {
        let counters = Arc::default();
        let snapshot = limited(&counters, line);
        let mut open = Vec::new();
        for id in 0..4 {
            let mut admission = admit_as(&snapshot, id).unwrap();
            assert_eq!(admission.open_session(&counters, SharedSlots::default(), clock::now()), [0_u128; 0]);
            let expected: &[LimitKind] = if id < 2 { &[] } else { &[LimitKind::SessionsPerAddress] };
            assert_eq!(admission.exceeded(), expected, "{line}, session {id}");
            open.push(admission.into_lease());
        }
        assert!(open.iter().all(|lease| !lease.is_replaced()));
    }
}

/// The route `feed` of clients with a token.
fn feed(counters: &Arc<Counters>, limits: &str) -> Snapshot {
    let limits = format!("auth = \"users\"\n[route.limits]\n{limits}");
    build(None, &config(&InMemory::new(), &[("auth = \"users\"", &limits)]), counters)
}

/// Admits the request of a client with a token of this subject, from 192.0.2.`host`.
fn admit_at_feed(snapshot: &Snapshot, id: SessionId, subject: Option<&str>, host: u8) -> Result<Admission, Rejection> {
    let mut claims = serde_json::json!({ "exp": 1_800_000_600 });
    if let Some(subject) = subject {
        claims["sub"] = subject.into();
    }
    let key = EncodingKey::from_secret(b"a secret of thirty-two bytes ...");
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let facts = RequestFacts {
        kind: RequestKind::WebSocket,
        authority: "a.example",
        path: "/feed",
        query: None,
        origin: None,
        headers: &headers,
        protocols: &[],
        address: [192, 0, 2, host].into(),
        scheme: Scheme::Https,
        id,
    };
    let now = Clocks { instant: clock::now(), unix: Duration::from_secs(1_800_000_000) };
    snapshot.policy().admit(&facts, now).map_err(|rejected| rejected.rejection)
}

/// Sessions are given as subject and host, in the order in which they open; the last one is new.
#[test]
fn one_session_makes_way_in_both_limits() {
    let table: [(&str, &[(&str, u8)], &[SessionId]); 7] = [
        // The oldest session of both.
        ("sessions_per_subject = 2\nsessions_per_address = 2", &[("ann", 1), ("ann", 1), ("ann", 1)], &[0]),
        // The oldest of the subject has another address.
        ("sessions_per_subject = 2\nsessions_per_address = 1", &[("ann", 2), ("ann", 1), ("ann", 1)], &[1]),
        // The oldest of the address has another subject.
        ("sessions_per_subject = 1\nsessions_per_address = 2", &[("bob", 1), ("ann", 1), ("ann", 1)], &[1]),
        // No session is in the way of both.
        ("sessions_per_subject = 1\nsessions_per_address = 1", &[("bob", 1), ("ann", 2), ("ann", 1)], &[0, 1]),
        // Only one limit is reached.
        ("sessions_per_subject = 1\nsessions_per_address = 9", &[("bob", 1), ("ann", 1), ("ann", 1)], &[1]),
        ("sessions_per_subject = 9\nsessions_per_address = 2", &[("bob", 1), ("ann", 1), ("ann", 1)], &[0]),
        ("sessions_per_subject = 9\nsessions_per_address = 9", &[("bob", 1), ("ann", 1), ("ann", 1)], &[]),
    ];
    for (limits, sessions, expected) in table {
        let counters = Arc::default();
        let snapshot = feed(&counters, &format!("{limits}\non_session_limit = \"close_oldest\""));
        let (mut open, mut replaced) = (Vec::new(), Vec::new());
        for (id, (subject, host)) in sessions.iter().enumerate() {
            assert!(replaced.is_empty(), "{limits}");
            let mut admission = admit_at_feed(&snapshot, id as SessionId, Some(*subject), *host).unwrap();
            replaced = admission.open_session(&counters, SharedSlots::default(), clock::now());
            open.push(admission.into_lease());
        }
        assert_eq!(replaced, expected, "{limits}");
        for (id, lease) in open.iter().enumerate() {
            assert_eq!(lease.is_replaced(), expected.contains(&(id as SessionId)), "{limits}, session {id}");
        }
    }
}

/// Clients without a subject cannot be distinguished, so none of them may close the session of another.
#[test]
fn a_client_without_a_subject_replaces_no_session() {
    let counters = Arc::default();
    let snapshot =
        feed(&counters, "sessions_per_subject = 2\nsessions_per_address = 3\non_session_limit = \"close_oldest\"");
    let admit = |id, subject| admit_at_feed(&snapshot, id, subject, 1);
    let open = |admission: Result<Admission, Rejection>| {
        let mut admission = admission.unwrap();
        let replaced = admission.open_session(&counters, SharedSlots::default(), clock::now());
        (admission.into_lease(), replaced)
    };
    let limits = &snapshot.policy().routes().named("feed").unwrap().config.limits;
    let action = |has_subject| limits.action_on(LimitKind::SessionsPerSubject, has_subject);
    assert_eq!([true, false].map(action), [LimitAction::CloseOldest, LimitAction::Refuse]);
    let (first, replaced) = open(admit(0, None));
    assert_eq!(replaced, [0_u128; 0]);
    // An upgrade that waits for its upstream has its slot, as every upgrade that can be rejected.
    let waiting = admit(1, None);
    assert!(waiting.is_ok());
    assert_eq!(admit(2, None).err(), Some(Rejection::SubjectSessions));
    drop(waiting);
    let (second, _) = open(admit(3, None));
    // An empty subject is none.
    assert_eq!(admit(4, Some("")).err(), Some(Rejection::SubjectSessions));
    let (third, replaced) = open(admit(5, Some("ann")));
    assert_eq!(replaced, [0_u128; 0]);
    // The limit of the address closes its oldest session, whose slot of the subject is then free.
    let (_fourth, replaced) = open(admit(6, Some("ann")));
    assert_eq!(replaced, [0]);
    assert_eq!([&first, &second, &third].map(Lease::is_replaced), [true, false, false]);
}
