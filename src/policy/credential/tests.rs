//! Tests of `credential`: tables of where tokens are found and of what is left after removal.

use http::HeaderName;
use proptest::prelude::*;

use super::*;

fn sources(texts: &[&str]) -> Vec<TokenSource> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
    let line = |(name, value): &(&'static str, &[u8])| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.iter().map(line) {
        headers.append(name, value);
    }
    headers
}

#[test]
fn sources_are_parsed() {
    let cases = [
        ("header", Ok(TokenSource::Header)),
        ("cookie:session", Ok(TokenSource::Cookie("session".into()))),
        ("cookie:__Host-s", Ok(TokenSource::Cookie("__Host-s".into()))),
        ("query:token", Ok(TokenSource::Query("token".into()))),
        ("query:auth[token]", Ok(TokenSource::Query("auth[token]".into()))),
        ("query:a:b", Ok(TokenSource::Query("a:b".into()))),
        ("subprotocol:bearer", Ok(TokenSource::Subprotocol("bearer".into()))),
        ("subprotocol_prefix:base64url.bearer.", Ok(TokenSource::SubprotocolPrefix("base64url.bearer.".into()))),
        ("subprotocol_prefix", Err(TokenSourceError::Name)),
        ("subprotocol_prefix:", Err(TokenSourceError::Name)),
        ("subprotocol_prefix:a=", Err(TokenSourceError::NameNotToken)),
        ("subprotocol_prefix:a/", Err(TokenSourceError::NameNotToken)),
        ("", Err(TokenSourceError::UnknownKind)),
        ("Header", Err(TokenSourceError::UnknownKind)),
        ("body:token", Err(TokenSourceError::UnknownKind)),
        ("header:", Err(TokenSourceError::Name)),
        ("header:authorization", Err(TokenSourceError::Name)),
        ("cookie", Err(TokenSourceError::Name)),
        ("cookie:", Err(TokenSourceError::Name)),
        ("query:", Err(TokenSourceError::Name)),
        ("subprotocol", Err(TokenSourceError::Name)),
        ("cookie:a b", Err(TokenSourceError::NameNotToken)),
        ("cookie:a=b", Err(TokenSourceError::NameNotToken)),
        ("subprotocol:a,b", Err(TokenSourceError::NameNotToken)),
        ("subprotocol:é", Err(TokenSourceError::NameNotToken)),
        ("query:a&b", Err(TokenSourceError::NameNotQuery)),
        ("query:a=b", Err(TokenSourceError::NameNotQuery)),
        ("query:a%20b", Err(TokenSourceError::NameNotQuery)),
        ("query:a b", Err(TokenSourceError::NameNotQuery)),
        ("query:a+b", Err(TokenSourceError::NameNotQuery)),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse(), expected, "{text}");
    }
}

/// Calls `find` and copies the token, so that it compares with literals.
fn found(sources: &[TokenSource], headers: &HeaderMap, query: Option<&str>, protocols: &[&str]) -> Outcome {
    find(sources, headers, query, protocols).map(|token| token.map(Cow::into_owned))
}

type Outcome = Result<Option<String>, Ambiguous>;

fn outcome(expected: Result<Option<&str>, Ambiguous>) -> Outcome {
    expected.map(|token| token.map(str::to_owned))
}

#[test]
fn a_token_is_found_in_the_authorization_header() {
    let cases: [(&[&[u8]], Option<&str>); 13] = [
        (&[b"Bearer abc"], Some("abc")),
        (&[b"bearer abc"], Some("abc")),
        (&[b"BEARER   abc"], Some("abc")),
        (&[b"Bearer abc=="], Some("abc==")),
        (&[b"Bearer"], None),
        (&[b"Bearer "], None),
        (&[b"Bearer\tabc"], None),
        (&[b"Bearerabc"], None),
        (&[b"Bearer: abc"], None),
        (&[b"Basic YTpi"], None),
        (&[b"abc"], None),
        (&[b""], None),
        (&[b"Bearer ab\xff"], None),
    ];
    let in_lines = |lines: &[&'static [u8]]| {
        let lines: Vec<_> = lines.iter().map(|line| ("authorization", *line)).collect();
        found(&sources(&["header"]), &headers(&lines), None, &[])
    };
    for (lines, expected) in cases {
        assert_eq!(in_lines(lines), outcome(Ok(expected)), "{lines:?}");
    }
    let ambiguous: [&[&'static [u8]]; 6] = [
        &[b"Bearer abc def"],
        &[b"Bearer abc abc"],
        &[b"Bearer abc, Bearer def"],
        &[b"Bearer abc", b"Bearer abc"],
        &[b"Bearer abc", b"Bearer def"],
        &[b"Basic YTpi", b"Bearer abc"],
    ];
    for lines in ambiguous {
        assert_eq!(in_lines(lines), Err(Ambiguous), "{lines:?}");
    }
    assert_eq!(found(&sources(&["cookie:c"]), &headers(&[("authorization", b"Bearer abc")]), None, &[]), Ok(None));
}

#[test]
fn a_token_is_found_in_a_cookie() {
    let cases: [(&[&[u8]], Option<&str>); 22] = [
        (&[b"session=abc"], Some("abc")),
        (&[b"session=\"abc\""], Some("abc")),
        (&[b"a=1; session = \"abc\" ;b=2"], Some("abc")),
        (&[b"session=\"abc"], Some("\"abc")),
        (&[b"session=abc\""], Some("abc\"")),
        (&[b"session=\""], Some("\"")),
        (&[b"session=\"\""], None),
        // Cookie values have no escapes.
        (&[b"session=a%2Eb"], Some("a%2Eb")),
        (&[b"session=abc; session=abc"], Some("abc")),
        (&[b"session=abc; a=1", b"session=\"abc\"", b"session=abc"], Some("abc")),
        (&[b"session=; session="], None),
        (&[b"a=1; session=abc; b=2"], Some("abc")),
        (&[b"a=1;session=abc"], Some("abc")),
        (&[b" session = abc "], Some("abc")),
        (&[b"a=1", b"session=a=c"], Some("a=c")),
        (&[b"x=\xff; session=abc"], Some("abc")),
        (&[b"Session=abc"], None),
        (&[b"xsession=abc"], None),
        (&[b"session"], None),
        (&[b"session="], None),
        (&[b"session=\xff"], None),
        (&[], None),
    ];
    let in_lines = |lines: &[&'static [u8]]| {
        let lines: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
        found(&sources(&["cookie:session"]), &headers(&lines), None, &[])
    };
    for (lines, expected) in cases {
        assert_eq!(in_lines(lines), outcome(Ok(expected)), "{lines:?}");
    }
    let ambiguous: [&[&'static [u8]]; 5] = [
        &[b"session=abc", b"session=def"],
        &[b"session=abc; session=abc; session=abd"],
        &[b"session=; session=abc"],
        &[b"session=abc; session="],
        &[b"session=\xff; session=abc"],
    ];
    for lines in ambiguous {
        assert_eq!(in_lines(lines), Err(Ambiguous), "{lines:?}");
    }
}

/// The query, the token in it, and the query for the upstream.
const QUERIES: [(&str, Option<&str>, Option<&str>); 28] = [
    ("token=abc", Some("abc"), None),
    ("a=1&token=abc&b=2", Some("abc"), Some("a=1&b=2")),
    ("%74oken=abc&b", Some("abc"), Some("b")),
    ("%74%6F%6b%65%6E=abc", Some("abc"), None),
    ("token=a%2Eb", Some("a.b"), None),
    ("token=a%2eb%2Ec&x=%2E", Some("a.b.c"), Some("x=%2E")),
    ("token=%61%62%63", Some("abc"), None),
    // Values are decoded once, and a plus is not a space.
    ("token=a%252Eb", Some("a%2Eb"), None),
    ("token=a+b%2Bc", Some("a+b+c"), None),
    ("token=a%zz%2", Some("a%zz%2"), None),
    ("token=a%ff%2E", Some("a%ff%2E"), None),
    ("token=a%26token=b", Some("a&token=b"), None),
    ("token=a.b&token=a%2Eb&%74oken=%61.b", Some("a.b"), None),
    ("token=a=b", Some("a=b"), None),
    ("Token=abc", None, Some("Token=abc")),
    ("tokens=abc", None, Some("tokens=abc")),
    ("%2574oken=abc", None, Some("%2574oken=abc")),
    ("%7token=abc", None, Some("%7token=abc")),
    ("token%=abc", None, Some("token%=abc")),
    ("token", None, None),
    ("token&a=1", None, Some("a=1")),
    ("token=", None, None),
    ("token=abc&token=abc", Some("abc"), None),
    ("token=&token=&a=1", None, Some("a=1")),
    ("a=1", None, Some("a=1")),
    ("a=1&&b=%zz&%", None, Some("a=1&&b=%zz&%")),
    ("", None, None),
    ("a=token=abc", None, Some("a=token=abc")),
];

#[test]
fn a_token_is_found_in_the_query_and_removed() {
    let sources = sources(&["query:token"]);
    for (query, token, rest) in QUERIES {
        assert_eq!(found(&sources, &HeaderMap::new(), Some(query), &[]), outcome(Ok(token)), "{query}");
        assert_eq!(strip_query(&sources, Some(query)).as_deref(), rest, "{query}");
    }
    for query in ["token=abc&a=1&%74oken=def", "token=abc&token=", "token&token=abc", "token=a%2Eb&token=a%252Eb"] {
        assert_eq!(found(&sources, &HeaderMap::new(), Some(query), &[]), Err(Ambiguous), "{query}");
        assert!(strip_query(&sources, Some(query)).is_none_or(|rest| rest == "a=1"), "{query}");
    }
    assert_eq!(strip_query(&sources, None), None);
    assert_eq!(strip_query(&[], Some("token=abc")).as_deref(), Some("token=abc"));
}

#[test]
fn a_token_is_found_after_a_marker_and_removed() {
    type Case<'a> = (&'a [&'a str], Result<Option<&'a str>, Ambiguous>, &'a [&'a str], Option<&'a str>);
    let cases: [Case<'_>; 11] = [
        (&["bearer", "abc"], Ok(Some("abc")), &[], Some("bearer")),
        (&["chat", "bearer", "abc", "v2"], Ok(Some("abc")), &["chat", "v2"], Some("bearer")),
        (&["chat"], Ok(None), &["chat"], None),
        (&[], Ok(None), &[], None),
        (&["bearer"], Ok(None), &[], Some("bearer")),
        (&["chat", "bearer"], Ok(None), &["chat"], Some("bearer")),
        (&["Bearer", "abc"], Ok(None), &["Bearer", "abc"], None),
        (&["bearer", "bearer"], Err(Ambiguous), &[], Some("bearer")),
        (&["bearer", "bearer", "abc", "chat"], Err(Ambiguous), &["chat"], Some("bearer")),
        (&["bearer", "abc", "bearer", "def", "chat"], Err(Ambiguous), &["chat"], Some("bearer")),
        (&["bearer", "abc", "bearer", "abc", "chat"], Ok(Some("abc")), &["chat"], Some("bearer")),
    ];
    let sources = sources(&["subprotocol:bearer"]);
    for (protocols, token, kept, marker) in cases {
        assert_eq!(found(&sources, &HeaderMap::new(), None, protocols), outcome(token), "{protocols:?}");
        assert_eq!(strip_protocols(&sources, protocols), (kept.to_vec(), marker), "{protocols:?}");
    }
}

#[test]
fn a_token_is_found_after_a_prefix_and_removed() {
    type Case<'a> = (&'a [&'a str], Result<Option<&'a str>, Ambiguous>, &'a [&'a str], Option<&'a str>);
    // `YS5iLmM` is the base64url of `a.b.c`, `YS5iLmN` the same with spare bits set. `_w` decodes to a byte that is not
    // UTF-8.
    let cases: [Case<'_>; 12] = [
        (&["k8s.io.YS5iLmM"], Ok(Some("a.b.c")), &[], Some("k8s.io.YS5iLmM")),
        (
            &["base64.binary.k8s.io", "k8s.io.YS5iLmM"],
            Ok(Some("a.b.c")),
            &["base64.binary.k8s.io"],
            Some("k8s.io.YS5iLmM"),
        ),
        (&["k8s.io.YS5iLmN", "v2"], Ok(Some("a.b.c")), &["v2"], Some("k8s.io.YS5iLmN")),
        (&["v1", "k8s.io.a.b.c", "v2"], Ok(Some("a.b.c")), &["v1", "v2"], Some("k8s.io.a.b.c")),
        (&["k8s.io.a.b.c", "k8s.io.YS5iLmM"], Ok(Some("a.b.c")), &[], Some("k8s.io.a.b.c")),
        (&["k8s.io.a.b.c", "k8s.io.a.b.d", "v1"], Err(Ambiguous), &["v1"], Some("k8s.io.a.b.c")),
        (&["k8s.io."], Ok(None), &[], Some("k8s.io.")),
        (
            &["k8s.io", "K8S.io.YS5iLmM", "xk8s.io.YS5iLmM"],
            Ok(None),
            &["k8s.io", "K8S.io.YS5iLmM", "xk8s.io.YS5iLmM"],
            None,
        ),
        (&["k8s.io._w"], Ok(Some("_w")), &[], Some("k8s.io._w")),
        (&["k8s.io.Y"], Ok(Some("Y")), &[], Some("k8s.io.Y")),
        (&["k8s.io.!"], Ok(Some("!")), &[], Some("k8s.io.!")),
        (&[], Ok(None), &[], None),
    ];
    let sources = sources(&["subprotocol_prefix:k8s.io."]);
    for (protocols, token, kept, marker) in cases {
        assert_eq!(found(&sources, &HeaderMap::new(), None, protocols), outcome(token), "{protocols:?}");
        assert_eq!(strip_protocols(&sources, protocols), (kept.to_vec(), marker), "{protocols:?}");
    }
}

#[test]
fn all_markers_are_removed() {
    let sources = sources(&["subprotocol:a", "header", "subprotocol:b"]);
    assert_eq!(strip_protocols(&sources, &["x", "b", "t1", "a", "t2", "y"]), (vec!["x", "y"], Some("b")));
    assert_eq!(strip_protocols(&sources, &["a", "b", "t", "y"]), (vec!["y"], Some("a")));
}

#[test]
fn sources_are_tried_in_order() {
    let sources = sources(&["header", "cookie:session", "query:token", "subprotocol:bearer"]);
    let all = headers(&[("authorization", b"Bearer one"), ("cookie", b"session=two")]);
    let none = HeaderMap::new();
    assert_eq!(found(&sources, &all, Some("token=three"), &["bearer", "four"]), outcome(Ok(Some("one"))));
    assert_eq!(found(&sources[1..], &all, Some("token=three"), &["bearer", "four"]), outcome(Ok(Some("two"))));
    assert_eq!(found(&sources, &none, Some("token=three"), &["bearer", "four"]), outcome(Ok(Some("three"))));
    assert_eq!(found(&sources, &none, None, &["bearer", "four"]), outcome(Ok(Some("four"))));
    assert_eq!(found(&sources, &none, None, &[]), outcome(Ok(None)));
    // Another scheme is not a candidate. Two candidates are ambiguous, and no other source is tried.
    let basic = headers(&[("authorization", b"Basic YTpi")]);
    assert_eq!(found(&sources, &basic, Some("token=three"), &[]), outcome(Ok(Some("three"))));
    let twice = headers(&[("authorization", b"Bearer one"), ("authorization", b"Bearer one")]);
    assert_eq!(found(&sources, &twice, Some("token=three"), &[]), Err(Ambiguous));
}

#[test]
fn headers_are_stripped_of_every_source() {
    let all = headers(&[
        ("authorization", b"Bearer one"),
        ("authorization", b"Basic two"),
        ("cookie", b"a=1; session=x;b=2;; session = y"),
        ("cookie", b"session=z"),
        ("cookie", b"c=3;d=\xff"),
        ("x-other", b"session=kept"),
    ]);
    let lines = |headers: &HeaderMap, name: &str| -> Vec<Vec<u8>> {
        headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
    };
    let mut stripped = all.clone();
    strip_headers(&sources(&["query:t", "header", "cookie:session"]), &mut stripped);
    assert!(lines(&stripped, "authorization").is_empty());
    assert_eq!(lines(&stripped, "cookie"), [b"a=1; b=2".to_vec(), b"c=3;d=\xff".to_vec()]);
    assert_eq!(lines(&stripped, "x-other"), [b"session=kept".to_vec()]);

    let mut untouched = all.clone();
    strip_headers(&sources(&["query:session", "subprotocol:cookie", "cookie:other"]), &mut untouched);
    assert_eq!(untouched, all);

    let mut only = headers(&[("cookie", b"session=x")]);
    strip_headers(&sources(&["cookie:session"]), &mut only);
    assert!(only.is_empty());
}

proptest! {
    #[test]
    fn no_query_token_is_left_after_removal(query in "(([a-c%7416]|token|%74oken|=|&){0,12})") {
        let sources = sources(&["query:token"]);
        let rest = strip_query(&sources, Some(&query));
        let headers = HeaderMap::new();
        prop_assert_eq!(find(&sources, &headers, rest.as_deref(), &[]), Ok(None));
        let again = strip_query(&sources, rest.as_deref());
        prop_assert_eq!(&again, &rest);
    }

    #[test]
    fn no_cookie_token_is_left_after_removal(line in "((session|a|=|;| |x){0,12})") {
        let sources = sources(&["cookie:session"]);
        let mut headers = headers(&[]);
        headers.append(COOKIE, HeaderValue::from_str(&line).unwrap());
        strip_headers(&sources, &mut headers);
        prop_assert_eq!(find(&sources, &headers, None, &[]), Ok(None));
        for left in headers.get_all(COOKIE) {
            let mut pairs = left.as_bytes().split(|&byte| byte == b';');
            prop_assert!(pairs.all(|pair| cookie_value(pair, "session").is_none()));
        }
    }

    #[test]
    fn no_subprotocol_token_is_left_after_removal(protocols in prop::collection::vec("(bearer|b2|t[0-9]|chat)", 0..8)) {
        let sources = sources(&["subprotocol:bearer", "subprotocol:b2"]);
        let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
        let headers = HeaderMap::new();
        let found = find(&sources, &headers, None, &protocols);
        let (kept, marker) = strip_protocols(&sources, &protocols);
        prop_assert!(!kept.contains(&"bearer") && !kept.contains(&"b2"));
        prop_assert_eq!(marker.is_some(), protocols.iter().any(|p| matches!(*p, "bearer" | "b2")));
        if matches!(found, Ok(Some(_))) {
            prop_assert!(kept.len() + 2 <= protocols.len());
        }
    }
}
