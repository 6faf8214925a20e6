//! Tests of `claims`: tables of subjects, requirements and forwarded headers.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::members::Wanted;
use super::*;

/// The claims of a token for a verifier that keeps these names.
fn asked(value: &Value, names: &[&str]) -> Claims {
    let members = Members::parse(value.to_string().as_bytes(), &Wanted::new(names.iter().copied(), [])).unwrap();
    Claims::new(Arc::new(members), Duration::from_secs(1), Signer::of_test())
}

fn claims(value: Value) -> Claims {
    let Value::Object(members) = &value else { panic!("claims must be an object") };
    asked(&value, &members.keys().map(String::as_str).collect::<Vec<_>>())
}

fn params(values: &[(&str, &str)]) -> Params {
    Params::new(values.iter().map(|(name, value)| (Arc::from(*name), (*value).to_owned())).collect())
}

#[test]
fn the_subject_is_the_text_of_a_scalar() {
    let cases = [
        (json!({"sub": "ada"}), Some("ada")),
        (json!({"sub": 7}), Some("7")),
        (json!({"sub": "7"}), Some("7")),
        (json!({"sub": -1}), Some("-1")),
        (json!({"sub": 0}), Some("0")),
        (json!({"sub": 1.5}), Some("1.5")),
        (json!({"sub": u64::MAX}), Some("18446744073709551615")),
        (json!({"sub": true}), Some("true")),
        (json!({"sub": false}), Some("false")),
        (json!({"sub": ""}), None),
        (json!({"sub": null}), None),
        (json!({"sub": ["ada"]}), None),
        (json!({"sub": [7]}), None),
        (json!({"sub": {"id": 7}}), None),
        (json!({}), None),
    ];
    for (value, expected) in cases {
        let claims = claims(value.clone());
        assert_eq!(claims.subject(), expected, "{value}");
        // Requirements and forwarded headers use the same text.
        if let Some(subject) = expected {
            assert!(Requirement::new("sub", subject).unwrap().met_by(&claims, &Params::default()), "{value}");
            let rules = [("sub".to_owned(), HeaderName::from_static("x-user"))];
            assert_eq!(forward(&claims, &rules).unwrap()[0].1, *subject, "{value}");
        }
    }
}

#[test]
fn subjects_beyond_any_number_type_stay_distinct() {
    let [one, two] = ["18446744073709551617", "18446744073709551618"].map(|number| {
        let members = Members::parse(format!(r#"{{"sub":{number}}}"#).as_bytes(), &Wanted::new(["sub"], [])).unwrap();
        Claims::new(Arc::new(members), Duration::ZERO, Signer::of_test())
    });
    assert_eq!((one.subject(), two.subject()), (Some("18446744073709551617"), Some("18446744073709551618")));
}

#[test]
fn debug_shows_names_only() {
    let claims = claims(json!({"sub": "ada", "email": "ada@example.com", "exp": 1}));
    assert_eq!(format!("{claims:?}"), r#"Claims {"email", "exp", "sub"}"#);
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
        ("a.b", "whole", true),
        ("a.b", "path", false),
    ];
    for (claim, value, expected) in cases {
        let requirement = Requirement::new(claim, value).unwrap();
        assert_eq!(requirement.claim(), claim);
        assert_eq!(requirement.met_by(&asked(&token, &[claim]), &Params::default()), expected, "{claim} = {value:?}");
    }
}

#[test]
fn placeholders_are_filled_from_the_path() {
    let claims = claims(json!({"room": "lobby", "scope": "join:lobby  admin", "team": "red/lobby/1"}));
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
        assert_eq!(Requirement::new(claim, value).unwrap().met_by(&claims, &params), expected, "{value} {params:?}");
    }
    let requirement = Requirement::new("team", "{color}/{room}-{n_1}").unwrap();
    assert_eq!(requirement.names().collect::<Vec<_>>(), ["color", "room", "n_1"]);
    assert_eq!(Requirement::new("room", "lobby").unwrap().names().count(), 0);
}

#[test]
fn malformed_requirements_are_rejected() {
    let cases = [
        ("", "x", RequirementError::EmptyClaim),
        ("a", "{room", RequirementError::UnbalancedBraces),
        ("a", "room}", RequirementError::UnbalancedBraces),
        ("a", "}{", RequirementError::UnbalancedBraces),
        ("a", "{a}}", RequirementError::UnbalancedBraces),
        ("a", "x}{a}", RequirementError::UnbalancedBraces),
        ("a", "{{a}}", RequirementError::PlaceholderName),
        ("a", "{}", RequirementError::PlaceholderName),
        ("a", "{*rest}", RequirementError::PlaceholderName),
        ("a", "{a b}", RequirementError::PlaceholderName),
    ];
    for (claim, value, expected) in cases {
        assert_eq!(Requirement::new(claim, value), Err(expected), "{claim} = {value}");
    }
}

/// Returns the header of a claim, if it has one.
fn forwarded(value: &Value) -> Result<Option<String>, Unforwardable> {
    let rules = [("c".to_owned(), HeaderName::from_static("x-c"))];
    let headers = forward(&claims(json!({"c": value})), &rules)?;
    Ok(headers.first().map(|(_, value)| value.to_str().unwrap().to_owned()))
}

#[test]
fn claims_become_headers() {
    let cases = [
        (json!("ada"), Some("ada")),
        (json!("Ada Lovelace ~!\"\\"), Some("Ada Lovelace ~!\"\\")),
        (json!(7), Some("7")),
        (json!(-1.5), Some("-1.5")),
        (json!(false), Some("false")),
        (json!(["a", "b c"]), Some("a,b c")),
        (json!(["a"]), Some("a")),
        (json!(["a,b"]), None),
        (json!(["a", 1]), None),
        (json!([""]), None),
        (json!({}), None),
        (json!({"a": "b"}), None),
        (json!(" ada"), None),
        (json!("ada "), None),
        (json!(["ada", "bob "]), None),
        (json!("ada\r\nX-Admin: true"), None),
        (json!("ada\n"), None),
        (json!("a\u{0}b"), None),
        (json!("a\tb"), None),
        (json!("a\u{7f}"), None),
        (json!("zoë"), None),
        (json!("a\u{2028}b"), None),
        (json!(["ok", "a\r\nb"]), None),
    ];
    for (value, expected) in cases {
        assert_eq!(forwarded(&value), expected.map(|text| Some(text.to_owned())).ok_or(Unforwardable), "{value}");
    }
    for nothing in [json!(null), json!(""), json!([])] {
        assert_eq!(forwarded(&nothing), Ok(None), "{nothing}");
    }
    assert_eq!(forwarded(&json!("x".repeat(1024))), Ok(Some("x".repeat(1024))));
    assert_eq!(forwarded(&json!("x".repeat(1025))), Err(Unforwardable));
}

/// A claim that cannot be represented does not count as missing: a route that reads it rejects the request.
#[test]
fn a_malformed_claim_is_rejected_where_it_is_read() {
    for value in [r#""\ud800""#, "1e400", "[1, 1e400]", r#"["1", "\udc00"]"#] {
        let payload = format!(r#"{{"level": {value}, "o": {{"p": 1, "p": 1}}, "sub": "ada"}}"#);
        let wanted = Wanted::new(["sub"], ["level", "o.p"]);
        let claims = Claims::new(
            Arc::new(Members::parse(payload.as_bytes(), &wanted).unwrap()),
            Duration::ZERO,
            Signer::of_test(),
        );
        for claim in ["level", "o.p"] {
            assert!(!Requirement::new(claim, "1").unwrap().met_by(&claims, &Params::default()), "{claim} of {payload}");
            let rules = [(claim.to_owned(), HeaderName::from_static("x-c"))];
            assert_eq!(forward(&claims, &rules), Err(Unforwardable), "{claim} of {payload}");
        }
        assert!(Requirement::new("sub", "ada").unwrap().met_by(&claims, &Params::default()));
    }
}

#[test]
fn header_names_are_canonical() {
    for name in ["x-user-id", "X_User_Id", "x.user!id", "X|USER~ID"] {
        assert_eq!(canonical_header_name(&name.parse().unwrap()), "x-user-id");
    }
    assert_eq!(canonical_header_name(&"x1-userid".parse().unwrap()), "x1-userid");
}

#[test]
fn forwarding_follows_the_rules_in_order() {
    let token = json!({"sub": "ada", "realm": {"role": "editor"}, "bad": "\n"});
    let claims = asked(&token, &["realm.role", "none", "sub", "bad"]);
    let rule = |claim: &str, header: &'static str| (claim.to_owned(), HeaderName::from_static(header));
    let rules = [rule("realm.role", "x-role"), rule("none", "x-none"), rule("sub", "x-user"), rule("bad", "x-bad")];
    assert_eq!(forward(&claims, &rules), Err(Unforwardable), "one claim is not forwardable");
    let headers = forward(&claims, &rules[..3]).unwrap();
    let text: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    assert_eq!(text, ["x-role: editor", "x-user: ada"]);
    assert!(!format!("{headers:?}").contains("ada"));
}

proptest! {
    #[test]
    fn a_forwarded_value_never_ends_the_header(text in any::<String>()) {
        if let Ok(Some(value)) = forwarded(&json!(text)) {
            prop_assert_eq!(&value, &text);
            prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        }
    }

    #[test]
    fn any_value_is_parsed_or_rejected(value in "[a-z{}]{0,12}") {
        if let Ok(requirement) = Requirement::new("c", &value) {
            prop_assert_eq!(value.matches('{').count(), requirement.names().count());
        }
    }
}
