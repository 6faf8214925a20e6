//! Tests of filters.

use std::sync::Arc;

use serde_json::json;

use super::*;

/// A session with these facts.
pub(crate) fn session(id: u128, route: &str, subject: Option<&str>, address: &str) -> SessionEntry {
    SessionEntry {
        id: RequestId(id),
        route: Arc::from(route),
        auth: subject.map(|_| Arc::from("users")),
        subject: subject.map(Arc::from),
        address: address.parse().unwrap(),
        upstream: Arc::from("chat"),
        server: Arc::from("127.0.0.1:9001"),
        host: None,
        path: None,
        origin: None,
        tls_version: Some("TLSv1.3"),
        cipher: Some("TLS13_AES_128_GCM_SHA256"),
        started: crate::runtime::clock::now(),
    }
}

fn selected(filter: serde_json::Value) -> Vec<u128> {
    let sessions = [
        session(1, "chat", Some("ann"), "192.0.2.7"),
        session(2, "chat", Some("bob"), "::ffff:192.0.2.8"),
        session(3, "open", None, "2001:db8::1"),
    ];
    let selection = serde_json::from_value::<Filter>(filter).unwrap().check().unwrap();
    sessions.iter().filter(|session| selection.matches(session)).map(|session| session.id.0).collect()
}

#[test]
fn a_session_matches_if_every_field_does() {
    for (filter, expected) in [
        (json!({}), &[1, 2, 3][..]),
        (json!({ "route": "chat" }), &[1, 2]),
        (json!({ "route": "cha" }), &[]),
        (json!({ "auth": "users" }), &[1, 2]),
        (json!({ "subject": "ann" }), &[1]),
        (json!({ "subject": "" }), &[]),
        (json!({ "address": "192.0.2.7" }), &[1]),
        (json!({ "address": "192.0.2.8" }), &[2]),
        (json!({ "address": "192.0.2.0/24" }), &[1, 2]),
        (json!({ "address": "192.0.2.99/24" }), &[1, 2]),
        (json!({ "address": "::/0" }), &[3]),
        (json!({ "upstream": "chat", "server": "127.0.0.1:9001" }), &[1, 2, 3]),
        (json!({ "upstream": "mail" }), &[]),
        (json!({ "server": "127.0.0.1:9002" }), &[]),
        (json!({ "route": "chat", "subject": "bob" }), &[2]),
        (json!({ "route": "open", "subject": "bob" }), &[]),
        (json!({ "id": "00000000000000000000000000000003" }), &[3]),
        (json!({ "all": true, "route": "open" }), &[3]),
        (json!({ "route": null }), &[1, 2, 3]),
    ] {
        assert_eq!(selected(filter.clone()), expected, "{filter}");
    }
}

#[test]
fn a_change_of_all_sessions_has_to_say_so() {
    let check = |filter: serde_json::Value, all| {
        serde_json::from_value::<Filter>(filter).unwrap().check_for_change(all).map(|selection| selection.summary())
    };
    assert_eq!(check(json!({}), false).unwrap_err().status(), 400);
    assert_eq!(check(json!({ "route": null }), false).unwrap_err().status(), 400);
    assert_eq!(check(json!({ "all": true }), false).unwrap(), "all");
    assert_eq!(check(json!({}), true).unwrap(), "all");
    assert_eq!(check(json!({ "route": "chat", "subject": "ann" }), false).unwrap(), "route=chat subject=...");
}

#[test]
fn unknown_fields_and_malformed_values_are_errors() {
    assert!(serde_json::from_value::<Filter>(json!({ "rout": "chat" })).is_err());
    for filter in [json!({ "address": "192.0.2" }), json!({ "address": "" }), json!({ "id": "12" })] {
        let filter = serde_json::from_value::<Filter>(filter).unwrap();
        assert_eq!(filter.check().unwrap_err().status(), 400);
    }
    for id in ["", "0", "+0000000000000000000000000000001", "0000000000000000000000000000000g"] {
        assert_eq!(parse_id(id), None, "{id}");
    }
    assert_eq!(parse_id("0000000000000000000000000000000A"), Some(RequestId(10)));
}
