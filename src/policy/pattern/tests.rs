//! Tests of `pattern`: tables of matches and of malformed patterns.

use super::*;

fn pattern(text: &str) -> PathPattern {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Returns the values of the placeholders, in order; `None` if the path does not match.
fn values(text: &str, path: &str) -> Option<Vec<String>> {
    let pattern = pattern(text);
    let params = pattern.matches(&Path::parse(path).unwrap())?;
    Some(pattern.names().map(|name| params.get(name).unwrap().to_owned()).collect())
}

fn check(text: &str, expected: &[(&str, Option<&[&str]>)]) {
    for (path, expected) in expected {
        let expected = expected.map(|expected| expected.iter().map(ToString::to_string).collect());
        assert_eq!(values(text, path), expected, "{text} {path}");
    }
}

#[test]
fn literal_patterns_match_only_themselves() {
    check("/", &[("/", Some(&[])), ("/ws", None)]);
    check("/ws", &[("/ws", Some(&[])), ("/%77s", Some(&[])), ("/ws/", None), ("/WS", None), ("/", None)]);
    check("/ws/", &[("/ws/", Some(&[])), ("/ws", None), ("/ws/a", None)]);
}

#[test]
fn literals_are_decoded_like_paths() {
    check("/caf%C3%A9/a%20b", &[("/café/a%20b", Some(&[])), ("/caf%c3%a9/%61%20b", Some(&[]))]);
    check("/%7Broom%7d/%2A", &[("/{room}/*", Some(&[])), ("/a/b", None)]);
}

#[test]
fn a_name_matches_one_segment_that_is_not_empty() {
    check(
        "/ws/{room}",
        &[
            ("/ws/lobby", Some(&["lobby"])),
            ("/ws/caf%C3%A9", Some(&["café"])),
            ("/ws/", None),
            ("/ws", None),
            ("/ws/lobby/", None),
            ("/ws/a/b", None),
        ],
    );
    check("/{a}/x/{b}", &[("/1/x/2", Some(&["1", "2"])), ("/1/y/2", None)]);
    check("/{room}/", &[("/lobby/", Some(&["lobby"])), ("/lobby", None)]);
    check("/{room}", &[("/", None)]);
}

#[test]
fn a_rest_matches_any_number_of_remaining_segments() {
    check(
        "/files/{*rest}",
        &[
            ("/files", Some(&[""])),
            ("/files/", Some(&[""])),
            ("/files/a", Some(&["a"])),
            ("/files/a/b%20c/", Some(&["a/b c/"])),
            ("/filesystem", None),
            ("/", None),
        ],
    );
    check("/{*all}", &[("/", Some(&[""])), ("/a/b", Some(&["a/b"]))]);
    check("/{a}/{*b}", &[("/x", Some(&["x", ""])), ("/x/y/z", Some(&["x", "y/z"])), ("/", None)]);
}

#[test]
fn names_are_returned_in_order() {
    assert_eq!(pattern("/a/{b}/c/{_D9}/{*e}").names().collect::<Vec<_>>(), ["b", "_D9", "e"]);
    assert_eq!(pattern("/a").names().count(), 0);
}

#[test]
fn malformed_patterns_are_rejected() {
    let cases = [
        ("", PathPatternError::Path(PathError::NotAbsolute)),
        ("ws/{room}", PathPatternError::Path(PathError::NotAbsolute)),
        ("/ws/{room}?token=a", PathPatternError::Path(PathError::Delimiter)),
        ("/ws//a", PathPatternError::Path(PathError::EmptySegment)),
        ("/ws/../a", PathPatternError::Path(PathError::DotSegment)),
        ("/ws/%2e%2e", PathPatternError::Path(PathError::DotSegment)),
        ("/a%2Fb", PathPatternError::Path(PathError::EncodedSlash)),
        ("/a%", PathPatternError::Path(PathError::BadEscape)),
        ("/files/*", PathPatternError::Star),
        ("/files/**", PathPatternError::Star),
        ("/ws/room-{id}", PathPatternError::PartOfSegment),
        ("/ws/{a}{b}", PathPatternError::PartOfSegment),
        ("/ws/{a", PathPatternError::PartOfSegment),
        ("/ws/a}", PathPatternError::PartOfSegment),
        ("/ws/{{a}}", PathPatternError::PartOfSegment),
        ("/ws/{a/b}", PathPatternError::PartOfSegment),
        ("/ws/{}", PathPatternError::Name("".into())),
        ("/ws/{*}", PathPatternError::Name("".into())),
        ("/ws/{1a}", PathPatternError::Name("1a".into())),
        ("/ws/{a-b}", PathPatternError::Name("a-b".into())),
        ("/ws/{a*}", PathPatternError::Name("a*".into())),
        ("/ws/{**a}", PathPatternError::Name("*a".into())),
        ("/ws/{é}", PathPatternError::Name("é".into())),
        ("/{a}/{a}", PathPatternError::NameTwice("a".into())),
        ("/{a}/{*a}", PathPatternError::NameTwice("a".into())),
        ("/{*a}/b", PathPatternError::RestNotLast("a".into())),
        ("/{*a}/", PathPatternError::RestNotLast("a".into())),
        ("/{*a}/{*b}", PathPatternError::RestNotLast("a".into())),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<PathPattern>(), Err(error), "{text}");
    }
}

#[test]
fn messages_contain_the_braces() {
    let error = "/{*all}/ws".parse::<PathPattern>().unwrap_err();
    assert_eq!(error.to_string(), "`{*all}` takes the rest of the path, so nothing follows it");
}

#[test]
fn the_shape_ignores_the_names_of_placeholders() {
    assert!(pattern("/ws/{room}").same_shape(&pattern("/%77s/{id}")));
    assert!(pattern("/{*a}").same_shape(&pattern("/{*b}")));
    for (a, b) in [("/ws", "/ws/"), ("/{a}", "/{*a}"), ("/a", "/a/{*rest}"), ("/a/{b}", "/{b}/a"), ("/a", "/{a}")] {
        assert!(!pattern(a).same_shape(&pattern(b)), "{a} {b}");
    }
}
#[test]
fn a_prefix_is_whole_segments_under_the_same_names() {
    let table = [
        ("/chat/{room}", "/chat", Some(1)),
        ("/chat/{room}", "/%63hat/{room}", Some(2)),
        ("/chat/v1/{*rest}", "/chat/v1", Some(2)),
        ("/chat", "/chat", Some(1)),
        ("/chat/", "/chat", Some(1)),
        ("/chat/{room}", "/cha", None),
        ("/chat/{room}", "/chat/", None),
        ("/chat/", "/chat/", None),
        ("/", "/", None),
        ("/chat/{room}", "/chat/{other}", None),
        ("/chat/{*rest}", "/chat/{*rest}", None),
        ("/{*rest}", "/chat", None),
        ("/chat", "/chat/v1", None),
    ];
    for (path, prefix, expected) in table {
        let parse = |text: &str| text.parse::<PathPattern>().unwrap();
        assert_eq!(parse(path).prefix_len(&parse(prefix)), expected, "{prefix} of {path}");
    }
}
