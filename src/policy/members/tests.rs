//! Tests of `members`: which values are parsed, and what makes an object malformed.

use super::*;

fn paths(names: &[&str]) -> Vec<ClaimPath> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Reads the members with these names, all of them `judged`.
fn members(json: &str, names: &[&str]) -> Result<Members, ObjectError> {
    Members::parse(json.as_bytes(), &Wanted::new(paths(names), []))
}

/// Reads the members with these names, all of them only `kept`.
fn kept(json: &str, names: &[&str]) -> Members {
    Members::parse(json.as_bytes(), &Wanted::new([], paths(names))).unwrap()
}

#[test]
fn only_requested_members_are_parsed() {
    let values = [
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        "1e400",
        "-1e999",
        "123456789012345678901234567890e400",
        r#"["\udfff", 1e400]"#,
        r#"{"\ud800": 1, "a": 1, "a": 2}"#,
    ];
    for value in values {
        let json = format!(r#"{{"x": {value}, "sub": "ada", "realm": {{"y": {value}, "role": 1}}}}"#);
        let read = members(&json, &["sub", "realm.role"]).unwrap_or_else(|error| panic!("{json}: {error:?}"));
        assert_eq!(read.get("sub"), Some(&Claim::Text("ada".into())), "{json}");
        assert_eq!(read.get("realm.role"), Some(&Claim::Number("1".into())), "{json}");
        assert_eq!(read.names().collect::<Vec<_>>(), ["realm.role", "sub"]);
        // The contents of an object are never parsed.
        let expected = if value.starts_with('{') { Ok(()) } else { Err(ObjectError::Malformed) };
        for asked in ["x", "realm.y"] {
            assert_eq!(members(&json, &[asked]).map(drop), expected, "{asked} in {json}");
        }
        // A claim that is only kept is not an error.
        let claim = if value.starts_with('{') { Claim::Nested } else { Claim::Malformed };
        for asked in ["x", "realm.y"] {
            assert_eq!(kept(&json, &[asked]).get(asked), Some(&claim), "{asked} in {json}");
        }
    }
    assert!(members(r#"{"\ud800": 1, "\ud801": 2, "sub": ""}"#, &["sub"]).is_ok());
}

#[test]
fn other_values_must_be_json_by_syntax() {
    for value in ["", "x", "01", "1.", "+1", "\"\\x\"", "\"\\u12\"", "\"\u{1}\"", "[1,]", "{1:2}", "nul", "'a'", "1 2"]
    {
        assert_eq!(members(&format!(r#"{{"x": {value}}}"#), &[]).map(drop), Err(ObjectError::Malformed), "{value}");
    }
    assert_eq!(Object::parse(b"{\"x\":\"\xff\"}").map(drop), Err(ObjectError::Malformed));
}

#[test]
fn nesting_is_bounded_everywhere() {
    let nested = |depth: usize| format!(r#"{{"x": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(members(&nested(126), &["x"]).is_ok());
    for depth in [127, 128, 2000] {
        assert_eq!(members(&nested(depth), &[]).map(drop), Err(ObjectError::Malformed), "{depth}");
    }
    // Brackets in a string do not count.
    assert!(members(&format!(r#"{{"x": "\"{}\\"}}"#, "[{".repeat(500)), &[]).is_ok());
}

#[test]
fn repeated_names_are_errors() {
    for json in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":3}"#, r#"{"\ud800":1,"\ud800":1}"#, r#"{"":1,"":2}"#] {
        assert_eq!(members(json, &[]).map(drop), Err(ObjectError::Duplicate), "{json}");
    }
    // Below the top level it affects only requests for a member of that name, or for one within it.
    let json = r#"{"realm": {"role": "user", "role": "admin", "id": 1, "a": {"b": 1}, "a": {"b": 1, "c": {"d": 1}}}}"#;
    assert!(members(json, &["realm.id", "realm.x"]).is_ok());
    for name in ["realm.role", "realm.a", "realm.a.b", "realm.a.c.d", "realm.a.x"] {
        assert_eq!(members(json, &[name]).map(drop), Err(ObjectError::Malformed), "{name}");
        let read = kept(json, &["realm.id", name]);
        assert_eq!(read.get(name), Some(&Claim::Malformed), "{name}");
        assert_eq!(read.get("realm.id"), Some(&Claim::Number("1".into())), "{name}");
    }
    assert!(members(r#"{"a":{"x":1},"b":{"x":1}}"#, &["a.x", "b.x"]).is_ok());
}

#[test]
fn a_name_is_a_member_or_a_path() {
    let json = r#"{"a.b": 1, "a": {"c": {"d": 3, "e.f": 4}}, "a-b": 5, "g": {"c": 6, "l": [7, [8], {"m": 9}]}, "h": 7,
        "/x": 10, "~": 11}"#;
    let number = |text: &str| Some(Claim::Number(text.into()));
    let cases = [
        ("a.b", number("1")),
        ("/a.b", number("1")),
        ("/a/b", None),
        ("a.c.d", number("3")),
        ("/a/c/d", number("3")),
        ("a.c.e.f", None),
        ("/a/c/e.f", number("4")),
        ("a-b", number("5")),
        ("a.c", Some(Claim::Nested)),
        ("g.c", number("6")),
        ("g.c.x", None),
        ("h.x", None),
        ("/h/x", None),
        ("/h/0", None),
        ("h.", None),
        (".h", None),
        ("a..b", None),
        ("i", None),
        ("/", None),
        ("/x", None),
        ("/~1x", number("10")),
        ("/~0", number("11")),
        ("/g/l/0", number("7")),
        ("/g/l/1/0", number("8")),
        ("/g/l/2/m", number("9")),
        ("/g/l/3", None),
        ("/g/l/-", None),
        ("/g/l/m", None),
        ("g.l.0", None),
        ("/g/l/1", Some(Claim::List([Claim::Number("8".into())].into()))),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let together = members(json, &names).unwrap();
    for (name, expected) in cases {
        assert_eq!(together.get(name).cloned(), expected, "{name}");
        assert_eq!(members(json, &[name]).unwrap().get(name).cloned(), expected, "{name} alone");
    }
}

/// An issuer that writes a claim in both forms is not punished, but a token cannot override a nested claim with a
/// top-level one or the other way round.
#[test]
fn a_name_for_two_values_is_ambiguous() {
    for (json, claim) in [
        (r#"{"a.b": 1, "a": {"b": 1}}"#, Claim::Number("1".into())),
        (r#"{"a.b": ["x"], "a": {"b": ["x"]}}"#, Claim::List([Claim::Text("x".into())].into())),
        (r#"{"a.b": 1, "a": {"b": 2}}"#, Claim::Malformed),
        (r#"{"a.b": 1, "a": {"b": "1"}}"#, Claim::Malformed),
        (r#"{"a.b": null, "a": {"b": 1}}"#, Claim::Malformed),
        (r#"{"a.b": 1, "a": {"b": 1, "b": 1}}"#, Claim::Malformed),
        (r#"{"a.b": 1, "a": {"c": 2}}"#, Claim::Number("1".into())),
        (r#"{"a.b": 1, "a": 2}"#, Claim::Number("1".into())),
        (r#"{"a.c": 1, "a": {"b": 2}}"#, Claim::Number("2".into())),
    ] {
        assert_eq!(kept(json, &["a.b"]).get("a.b"), Some(&claim), "{json}");
        let is_error = members(json, &["a.b"]).is_err();
        assert_eq!(is_error, claim == Claim::Malformed, "{json}");
    }
}

#[test]
fn blocks_have_the_size_of_their_class() {
    let cases = [
        (0, 0),
        (1, 8),
        (8, 8),
        (9, 16),
        (17, 32),
        (40, 48),
        (128, 128),
        (129, 160),
        (256, 256),
        (257, 320),
        (1025, 1280),
        (6000, 6144),
        (14_337, 16_384),
        (24_577, 28_672),
    ];
    for (bytes, class) in cases {
        assert_eq!(block(bytes), class, "{bytes}");
    }
}

#[test]
fn values_keep_their_type_and_text() {
    let json = r#"{"a": [1, "x\n", true, null, [1], {}, 1.50], "e": { }, "f": {"x": 1}, "b": 18446744073709551617, "c": -0, "d": 1E2}"#;
    let read = members(json, &["a", "b", "c", "d", "e", "f"]).unwrap();
    let number = |text: &str| Claim::Number(text.into());
    let list = [
        number("1"),
        Claim::Text("x\n".into()),
        Claim::Bool(true),
        Claim::Null,
        Claim::Nested,
        Claim::Nested,
        number("1.50"),
    ];
    assert_eq!(read.get("a"), Some(&Claim::List(list.into())));
    assert_eq!(read.get("b"), Some(&number("18446744073709551617")));
    assert_eq!((read.get("c"), read.get("d")), (Some(&number("-0")), Some(&number("1E2"))));
    assert_eq!((read.get("e"), read.get("f")), (Some(&Claim::EmptyObject), Some(&Claim::Nested)));
}
