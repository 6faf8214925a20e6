//! Tests of `requirement`: which claims meet which conditions.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn any_of(claim: &str, values: &[&str]) -> Requirement {
    Requirement::any_of(claim.parse().unwrap(), values.iter().map(|value| value.parse().unwrap()).collect())
}

fn asked(token: &Value, names: &[&str]) -> Claims {
    Claims::of_test(&token.to_string(), names)
}

fn params(values: &[(&str, &str)]) -> Params {
    Params::new(values.iter().map(|(name, value)| (Arc::from(*name), (*value).to_owned())).collect())
}

#[test]
fn requirements_compare_the_text_of_claims() {
    let token = json!({
        "scope": "chat:read chat:write", "scp": ["a", "b c"], "room": "lobby", "level": 7, "ratio": 1.5,
        "big": u64::MAX,
        "admin": true, "none": null, "rooms": ["lobby", 12, true, ["deep"]], "empty": "", "words": "one two",
        "realm": {"role": "editor", "scope": "x y", "deep": {"er": "down"}}, "https://example.com/role": "owner",
        "a.b": "whole", "a": {"b": "path"},
    });
    let cases = [
        ("scope", "chat:write", true),
        ("scope", "chat:read", true),
        ("scope", "chat", false),
        ("scope", "chat:read chat:write", false),
        ("scope", "", false),
        ("scope", "CHAT:READ", false),
        ("scp", "a", true),
        ("scp", "b c", true),
        ("scp", "c", false),
        ("words", "one", false),
        ("words", "one two", true),
        ("room", "lobby", true),
        ("room", "lob", false),
        ("room", "lobby ", false),
        ("level", "7", true),
        ("level", "7.0", false),
        ("level", "07", false),
        ("ratio", "1.5", true),
        ("big", "18446744073709551615", true),
        ("admin", "true", true),
        ("admin", "True", false),
        ("none", "null", false),
        ("missing", "", false),
        ("empty", "", true),
        ("rooms", "lobby", true),
        ("rooms", "12", true),
        ("rooms", "true", true),
        ("rooms", "deep", false),
        ("rooms", "lobby,12", false),
        ("realm", "editor", false),
        ("realm.role", "editor", true),
        ("realm.scope", "x", false),
        ("realm.deep.er", "down", true),
        ("realm.deep", "down", false),
        ("realm.", "editor", false),
        (".realm", "editor", false),
        ("room.x", "lobby", false),
        ("https://example.com/role", "owner", true),
        // The token has two different claims that the name refers to. A pointer refers to one.
        ("a.b", "whole", false),
        ("a.b", "path", false),
        ("/a.b", "whole", true),
        ("/a.b", "path", false),
        ("/a/b", "path", true),
        ("/a/b", "whole", false),
        ("/scope", "chat:write", true),
        ("/realm/scope", "x", false),
        ("/realm/deep/er", "down", true),
        ("/rooms/0", "lobby", true),
        ("/rooms/1", "12", true),
        ("/rooms/1", "lobby", false),
        ("/rooms/3/0", "deep", true),
        ("/rooms/3", "deep", true),
        ("rooms.0", "lobby", false),
        ("/rooms/00", "lobby", false),
        ("/rooms/-", "lobby", false),
        ("/https:~1~1example.com~1role", "owner", true),
        ("/room/0", "lobby", false),
        ("/room/0", "l", false),
    ];
    for (claim, value, expected) in cases {
        let requirement = any_of(claim, &[value]);
        assert_eq!(requirement.claim().as_str(), claim);
        assert_eq!(requirement.met_by(&asked(&token, &[claim]), &Params::default()), expected, "{claim} = {value:?}");
    }
}

#[test]
fn placeholders_are_filled_from_the_path() {
    let token = json!({"room": "lobby", "scope": "join:lobby  admin", "team": "red/lobby/1"});
    let claims = Claims::of_test(&token.to_string(), &["room", "scope", "team"]);
    let cases = [
        ("room", "{room}", params(&[("room", "lobby")]), true),
        ("room", "{room}", params(&[("room", "Lobby")]), false),
        ("room", "{room}", params(&[("other", "lobby")]), false),
        ("room", "{room}", params(&[]), false),
        ("scope", "join:{room}", params(&[("room", "lobby")]), true),
        ("scope", "join:{room}", params(&[("room", "lobby admin")]), false),
        ("scope", "{room}", params(&[("room", "")]), false),
        ("team", "{color}/{room}/1", params(&[("room", "lobby"), ("color", "red")]), true),
        ("team", "{color}/{room}/{n}", params(&[("room", "lobby"), ("color", "red")]), false),
        // A value from the path is not searched for placeholders.
        ("room", "{a}", params(&[("a", "{b}"), ("b", "lobby")]), false),
    ];
    for (claim, value, params, expected) in cases {
        assert_eq!(any_of(claim, &[value]).met_by(&claims, &params), expected, "{value} {params:?}");
    }
    let value: Template = "{color}/{room}-{n_1}".parse().unwrap();
    assert_eq!(value.names().collect::<Vec<_>>(), ["color", "room", "n_1"]);
    assert_eq!("lobby".parse::<Template>().unwrap().names().count(), 0);
}

#[test]
fn one_accepted_value_is_enough() {
    let token = json!({"role": "editor", "roles": ["viewer", "editor"], "room": "lobby", "level": 2, "admin": false});
    let cases: [(&str, &[&str], bool); 10] = [
        ("role", &["admin", "editor"], true),
        ("role", &["admin", "owner"], false),
        ("roles", &["admin", "editor"], true),
        ("roles", &["admin", "owner"], false),
        ("room", &["hall", "{room}"], true),
        // A value with a placeholder that the path does not fill accepts nothing; the others still count.
        ("room", &["{other}", "lobby"], true),
        ("room", &["{other}"], false),
        ("level", &["1", "2"], true),
        ("admin", &["true", "1"], false),
        ("role", &[], false),
    ];
    for (claim, values, expected) in cases {
        let claims = asked(&token, &[claim]);
        assert_eq!(
            any_of(claim, values).met_by(&claims, &params(&[("room", "lobby")])),
            expected,
            "{claim} {values:?}"
        );
    }
}

#[test]
fn a_claim_is_present_if_it_has_a_value() {
    let cases = [
        (json!("x"), true),
        (json!(" "), true),
        (json!(0), true),
        (json!(false), true),
        (json!(["x"]), true),
        (json!([null]), true),
        (json!({"x": null}), true),
        (json!(null), false),
        (json!(""), false),
        (json!([]), false),
        (json!({}), false),
    ];
    let present = |token: &Value, claim: &str| {
        Requirement::present(claim.parse().unwrap()).met_by(&asked(token, &[claim]), &Params::default())
    };
    for (value, expected) in cases {
        assert_eq!(present(&json!({"c": value}), "c"), expected, "{value}");
        assert_eq!(present(&json!({"o": {"c": value}}), "o.c"), expected, "{value}");
    }
    // The names of roles are the keys of an object in the tokens of some issuers.
    let roles = json!({"urn:roles": {"admin": {"1": "example.com"}, "guest": {}}});
    assert!(present(&roles, "/urn:roles/admin"));
    assert!(!present(&roles, "/urn:roles/guest") && !present(&roles, "/urn:roles/owner"));
    assert!(!present(&json!({"a.b": 1, "a": {"b": 2}}), "a.b"), "an ambiguous claim is not present");
    assert!(present(&json!({"a.b": 1, "a": {"b": 1}}), "a.b"), "equal claims are not ambiguous");
}

proptest! {
    /// A pointer finds the value that `serde_json` finds, and a dotted name the value at the same place.
    #[test]
    fn a_path_finds_the_value_at_its_end(steps in proptest::collection::vec("[a-c/~]{1,2}", 1..4), value in "[xy]") {
        let token = steps.iter().rev().fold(json!(value), |inner, step| json!({ step.as_str(): inner, "z": ["w"] }));
        let escaped = steps.iter().map(|step| step.replace('~', "~0").replace('/', "~1"));
        let pointer = format!("/{}", escaped.collect::<Vec<_>>().join("/"));
        prop_assert_eq!(token.pointer(&pointer), Some(&json!(value)));
        let mut names = vec![pointer];
        if !steps[0].starts_with('/') {
            names.push(steps.join("."));
        }
        for name in names {
            let claims = asked(&token, &[&name]);
            prop_assert!(any_of(&name, &[&value]).met_by(&claims, &Params::default()));
            prop_assert!(!any_of(&name, &["w"]).met_by(&claims, &Params::default()));
        }
    }
}
