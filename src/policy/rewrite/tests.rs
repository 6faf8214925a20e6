//! Tables of values and paths.

use super::*;

fn params(value: &str) -> Params {
    Params::new(vec![("room".into(), value.to_owned())])
}

fn text(text: &str) -> Option<SetValue> {
    SetValue::text(text.parse().unwrap())
}

fn name(text: &str) -> HeaderName {
    text.parse().unwrap()
}

#[test]
fn placeholders_are_filled_with_decoded_text() {
    let rewrite = Rewrite::new(vec![(name("X-Room"), text("room {room};v=1").unwrap())], &[], PathRewrite::Keep);
    for value in ["blue", "a b", "a%2541", "'<>=", ""] {
        let headers = rewrite.headers(&params(value)).unwrap();
        assert_eq!(headers, [(name("x-room"), format!("room {value};v=1").parse().unwrap())]);
    }
    let bare = Rewrite::new(vec![(name("X-Room"), text("{room}").unwrap())], &[], PathRewrite::Keep);
    assert_eq!(bare.headers(&params("")).unwrap()[0].1, "");
}

#[test]
fn values_that_could_break_a_header_are_rejected() {
    let rewrite = Rewrite::new(vec![(name("X-Room"), text("{room}").unwrap())], &[], PathRewrite::Keep);
    let long = "a".repeat(VALUE_MAX_BYTES + 1);
    for value in [
        "a\r\nX-Evil: 1",
        "a\n",
        "\0",
        "a\tb",
        "\x7f",
        "caf\u{e9}",
        "\u{85}",
        " a",
        "a ",
        " ",
        "a,b",
        "a;b",
        "a\"b",
        &long,
    ] {
        assert_eq!(rewrite.headers(&params(value)), Err(PathError::HeaderValue), "{value:?}");
    }
    // A placeholder that the path did not fill.
    assert_eq!(rewrite.headers(&Params::default()), Err(PathError::HeaderValue));
}

#[test]
fn texts_that_no_header_can_carry_are_not_values() {
    let long = "a".repeat(VALUE_MAX_BYTES + 1);
    for invalid in ["", " ", " a", "a ", "a\nb", "caf\u{e9}", "{room}\n", " {room}", &long] {
        assert_eq!(text(invalid), None, "{invalid:?}");
    }
    for valid in ["a", "a b", "{room}", "a {room} b", "Bearer x.y-z_~+/="] {
        assert!(text(valid).is_some(), "{valid:?}");
    }
}

#[test]
fn a_secret_is_the_line_of_its_file_and_is_never_shown() {
    for content in ["Bearer s3cret", "Bearer s3cret\n", "Bearer s3cret\r\n"] {
        let secret = SetValue::secret(content.as_bytes()).unwrap();
        let rewrite = Rewrite::new(vec![(name("Authorization"), secret)], &[], PathRewrite::Keep);
        assert!(!format!("{rewrite:?}").contains("s3cret"), "{rewrite:?}");
        let headers = rewrite.headers(&Params::default()).unwrap();
        assert_eq!(headers[0].1, "Bearer s3cret");
        assert!(!format!("{headers:?}").contains("s3cret"), "{headers:?}");
    }
    let long = "a".repeat(VALUE_MAX_BYTES + 1);
    for invalid in ["", "\n", "a\nb\n", "a\n\n", " a", "a \n", "caf\u{e9}", "a\0", &long] {
        assert_eq!(SetValue::secret(invalid.as_bytes()), None, "{invalid:?}");
    }
    assert_eq!(SetValue::secret(b"\xff"), None);
    assert!(SetValue::secret("a".repeat(VALUE_MAX_BYTES).as_bytes()).is_some());
}

#[test]
fn set_and_removed_headers_are_withheld_under_every_spelling() {
    let rewrite = Rewrite::new(
        vec![(name("X-Region"), text("eu").unwrap())],
        &[name("Cookie"), name("x_trace")],
        PathRewrite::Keep,
    );
    assert_eq!(rewrite.withheld(), ["x-region", "cookie", "x-trace"]);
    assert!(Rewrite::default().withheld().is_empty());
}

#[test]
fn paths_are_stripped_by_segments_as_the_client_sent_them() {
    let table: &[(PathRewrite, &str, &str)] = &[
        (PathRewrite::Keep, "/a%20b/", "/a%20b/"),
        (PathRewrite::Strip(1), "/chat/a%20b/c", "/a%20b/c"),
        (PathRewrite::Strip(1), "/%63hat/a/", "/a/"),
        (PathRewrite::Strip(1), "/chat/", "/"),
        (PathRewrite::Strip(1), "/chat", "/"),
        (PathRewrite::Strip(2), "/chat/v1/a", "/a"),
        (PathRewrite::Strip(2), "/chat/v1", "/"),
        (PathRewrite::Replace("/x/".into()), "/chat/a", "/x/"),
    ];
    for (path, given, expected) in table {
        assert_eq!(Rewrite::new(Vec::new(), &[], path.clone()).path(given), *expected, "{path:?} of {given}");
    }
}
