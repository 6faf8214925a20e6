//! Tests of `claims`: tables of subjects and forwarded headers.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::pattern::Params;
use super::super::requirement::Requirement;
use super::*;

fn asked(value: &Value, names: &[&str]) -> Claims {
    Claims::of_test(&value.to_string(), names)
}

fn claims(value: Value) -> Claims {
    let Value::Object(members) = &value else { panic!("claims must be an object") };
    asked(&value, &members.keys().map(String::as_str).collect::<Vec<_>>())
}

fn rule(claim: &str, header: &'static str) -> (ClaimPath, HeaderName) {
    (claim.parse().unwrap(), HeaderName::from_static(header))
}

/// Whether the claim has this value for a requirement.
fn has(claims: &Claims, claim: &str, value: &str) -> bool {
    Requirement::any_of(claim.parse().unwrap(), vec![value.parse().unwrap()]).met_by(claims, &Params::default())
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
            assert!(has(&claims, "sub", subject), "{value}");
            assert_eq!(forward(&claims, &[rule("sub", "x-user")]).unwrap()[0].1, *subject, "{value}");
        }
    }
}

#[test]
fn subjects_beyond_any_number_type_stay_distinct() {
    let numbers = ["18446744073709551617", "18446744073709551618"];
    let [one, two] = numbers.map(|number| Claims::of_test(&format!(r#"{{"sub":{number}}}"#), &["sub"]));
    assert_eq!((one.subject(), two.subject()), (Some("18446744073709551617"), Some("18446744073709551618")));
}

#[test]
fn debug_shows_names_only() {
    let claims = claims(json!({"sub": "ada", "email": "ada@example.com", "exp": 1}));
    assert_eq!(format!("{claims:?}"), r#"Claims {"email", "exp", "sub"}"#);
}

/// Returns the header of a claim, if it has one.
fn forwarded(value: &Value) -> Result<Option<String>, Unforwardable> {
    let headers = forward(&claims(json!({"c": value})), &[rule("c", "x-c")])?;
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
        let claims = Claims::of_test(&payload, &["sub", "level", "o.p"]);
        for claim in ["level", "o.p"] {
            assert!(!has(&claims, claim, "1"), "{claim} of {payload}");
            assert!(!Requirement::present(claim.parse().unwrap()).met_by(&claims, &Params::default()));
            assert_eq!(forward(&claims, &[rule(claim, "x-c")]), Err(Unforwardable), "{claim} of {payload}");
        }
        assert!(has(&claims, "sub", "ada"));
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
    let claims = asked(&token, &["/realm/role", "none", "sub", "bad"]);
    let rules = [rule("/realm/role", "x-role"), rule("none", "x-none"), rule("sub", "x-user"), rule("bad", "x-bad")];
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
}
