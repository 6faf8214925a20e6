//! Tests of `handshake`: tables of requests and answers that it accepts and rejects.

use http::{Request, Response};

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Returns a well-formed request in which `replaced` overrides the headers of the same names and `added` is appended.
fn request(target: &str, replaced: &[(&str, &str)], added: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(target)
        .header("Host", "chat.example.com")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
        .body(())
        .unwrap();
    for (name, _) in replaced {
        request.headers_mut().remove(*name);
    }
    for (name, value) in replaced.iter().chain(added) {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    request
}

fn parse(request: &Request<()>) -> Result<Opening<'_>, OpeningError> {
    Opening::parse(request.method(), request.uri(), request.version(), request.headers())
}

#[test]
fn well_formed_requests_are_parsed() {
    let plain = Opening {
        authority: "chat.example.com",
        path: "/ws",
        query: None,
        key: KEY,
        protocols: vec![],
        extensions: vec![],
        origin: None,
    };
    assert_eq!(parse(&request("/ws", &[], &[])), Ok(plain.clone()));
    let request_ = request("/ws?a=b", &[("Connection", "keep-alive, UPGRADE")], &[("Upgrade", "h2c,WebSocket")]);
    assert_eq!(parse(&request_), Ok(Opening { query: Some("a=b"), ..plain.clone() }));
    let request_ = request("http://other.example:81/ws", &[], &[("Content-Length", "0")]);
    assert_eq!(parse(&request_), Ok(Opening { authority: "other.example:81", ..plain.clone() }));
    let offers = [
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Sec-WebSocket-Protocol", "mqtt"),
        ("Sec-WebSocket-Extensions", "x-odd; a=\"b,c\", permessage-deflate; client_max_window_bits=\"10\""),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Origin", "https://chat.example.com"),
    ];
    assert_eq!(
        parse(&request("/ws", &[], &offers)),
        Ok(Opening {
            protocols: vec!["chat", "superchat", "mqtt"],
            extensions: vec!["permessage-deflate; client_max_window_bits=\"10\"", "permessage-deflate"],
            origin: Some(b"https://chat.example.com"),
            ..plain
        })
    );
}

#[test]
fn malformed_requests_are_rejected_with_the_broken_rule() {
    type Lines<'a> = &'a [(&'a str, &'a str)];
    let table: &[(Lines<'_>, Lines<'_>, OpeningError)] = &[
        (&[("Upgrade", "h2c")], &[], OpeningError::NotUpgrade),
        (&[("Upgrade", "websockets")], &[], OpeningError::NotUpgrade),
        (&[("Connection", "close")], &[], OpeningError::NotUpgrade),
        (&[("Sec-WebSocket-Version", "8")], &[], OpeningError::Version),
        (&[], &[("Sec-WebSocket-Version", "13")], OpeningError::Version),
        (&[], &[("Content-Length", "5")], OpeningError::Body),
        (&[], &[("Content-Length", "0"), ("Content-Length", "5")], OpeningError::Body),
        (&[], &[("Transfer-Encoding", "chunked")], OpeningError::Body),
        (&[], &[("Host", "chat.example.com")], OpeningError::Host),
        (&[("Host", "ä")], &[], OpeningError::Host),
        (&[("Sec-WebSocket-Key", "short")], &[], OpeningError::Key),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ")], &[], OpeningError::Key),
        (&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSE=")], &[], OpeningError::Key),
        (&[], &[("Sec-WebSocket-Key", KEY)], OpeningError::Key),
        (&[], &[("Sec-WebSocket-Protocol", "chat, chat")], OpeningError::Protocol),
        (&[], &[("Sec-WebSocket-Protocol", "a b")], OpeningError::Protocol),
        (&[], &[("Sec-WebSocket-Protocol", "ü")], OpeningError::Protocol),
        (&[], &[("Sec-WebSocket-Extensions", "; x")], OpeningError::Extensions),
        (&[], &[("Origin", "https://a"), ("Origin", "https://b")], OpeningError::Origin),
    ];
    for (replaced, added, expected) in table {
        assert_eq!(parse(&request("/ws", replaced, added)), Err(*expected), "{replaced:?} {added:?}");
    }
    let mut post = request("/ws", &[], &[]);
    *post.method_mut() = Method::POST;
    assert_eq!(parse(&post), Err(OpeningError::Method));
    let mut old = request("/ws", &[], &[]);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(parse(&old), Err(OpeningError::NotUpgrade));
    for target in ["*", "ftp://chat.example.com/ws"] {
        assert_eq!(parse(&request(target, &[], &[])), Err(OpeningError::Target), "{target}");
    }
    let mut no_host = request("/ws", &[], &[]);
    no_host.headers_mut().remove(HOST);
    assert_eq!(parse(&no_host), Err(OpeningError::Host));
}

/// The first of these keys is from RFC 6455 section 4.1; RFC 4648 section 3.5 leaves their trailing bits to the
/// decoder.
#[test]
fn keys_with_trailing_bits_are_accepted_and_hashed_as_sent() {
    for key in ["AQIDBAUGBwgJCgsMDQ4PEC==", "AQIDBAUGBwgJCgsMDQ4PEP==", "/////////////////////x=="] {
        let request = request("/ws", &[("Sec-WebSocket-Key", key)], &[]);
        assert_eq!(parse(&request).map(|opening| opening.key), Ok(key));
    }
    assert_ne!(accept("AQIDBAUGBwgJCgsMDQ4PEC=="), accept("AQIDBAUGBwgJCgsMDQ4PEA=="));
    for key in
        ["AQIDBAUGBwgJCgsMDQ4PEC", "AQIDBAUGBwgJCgsMDQ4PEC=", "AQIDBAUGBwgJCgsMDQ4P====", "AQIDBAUGBwgJCgsMDQ4_EC=="]
    {
        assert_eq!(parse(&request("/ws", &[("Sec-WebSocket-Key", key)], &[])), Err(OpeningError::Key), "{key}");
    }
}

/// Returns two requests with a list of `count` items: all in one line, and one line per item.
fn lists(name: &str, first: &str, count: usize, item: fn(usize) -> String) -> [Request<()>; 2] {
    let items: Vec<String> = std::iter::once(first.to_owned()).chain((1..count).map(item)).collect();
    let one = items.join(", ");
    let each: Vec<(&str, &str)> = items.iter().map(|item| (name, item.as_str())).collect();
    [request("/ws", &[(name, &one)], &[]), request("/ws", &each, &[])]
}

#[test]
fn lists_over_their_limit_are_rejected() {
    let table: [(&str, &str, usize, fn(usize) -> String); 4] = [
        ("Sec-WebSocket-Protocol", "chat", PROTOCOLS_MAX, |n| format!("p{n}")),
        ("Sec-WebSocket-Extensions", "permessage-deflate", EXTENSIONS_MAX, |n| format!("x-{n}")),
        ("Sec-WebSocket-Extensions", deflate::NAME, EXTENSIONS_MAX, |_| format!("{}; a=\",\"", deflate::NAME)),
        ("Connection", "Upgrade", CONNECTION_NAMES_MAX, |n| format!("x-{n}")),
    ];
    for (name, first, max, item) in table {
        for request in lists(name, first, max, item) {
            assert!(parse(&request).is_ok(), "{max} items of {name}");
        }
        for count in [max + 1, 2 * max, 5000] {
            for request in lists(name, first, count, item) {
                assert_eq!(parse(&request), Err(OpeningError::TooManyItems), "{count} items of {name}");
            }
        }
    }
    // Empty items do not count (RFC 9110 section 5.6.1).
    let commas = format!("chat{}", ", ,".repeat(5000));
    assert_eq!(parse(&request("/ws", &[], &[("Sec-WebSocket-Protocol", &commas)])).unwrap().protocols, ["chat"]);
}

/// `Connection` does not have quoted strings (RFC 9110 section 7.6.1), so quotes must not hide names from the limit.
#[test]
fn quotes_do_not_hide_connection_names_from_the_limit() {
    let names = |count| (0..count).map(|n| format!("x{n}")).collect::<Vec<_>>().join(",");
    for count in [CONNECTION_NAMES_MAX, 9000] {
        for quoted in [format!("\"{}\"", names(count)), format!("\"\\\"{}", names(count))] {
            let request = request("/ws", &[("Connection", "Upgrade"), ("Connection", &quoted)], &[]);
            assert_eq!(parse(&request), Err(OpeningError::TooManyItems), "{count}");
        }
    }
    let quoted = format!("\"{}\"", names(CONNECTION_NAMES_MAX - 1));
    assert!(parse(&request("/ws", &[("Connection", "Upgrade"), ("Connection", &quoted)], &[])).is_ok());
    // The commas inside the quotes separate, so the token is found; an item in quotes is not the token.
    assert!(parse(&request("/ws", &[("Connection", "\"a, upgrade, b\"")], &[])).is_ok());
    assert_eq!(parse(&request("/ws", &[("Connection", "\"upgrade\"")], &[])), Err(OpeningError::NotUpgrade));
}

/// A list is not read beyond its limit, so that a long list costs no more than a short one. A malformed item beyond the
/// limit goes unnoticed.
#[test]
fn a_list_is_read_only_up_to_its_limit() {
    let table = [("Sec-WebSocket-Protocol", PROTOCOLS_MAX), ("Sec-WebSocket-Extensions", EXTENSIONS_MAX)];
    for (name, max) in table {
        let items = |count: usize| (0..count).map(|n| format!("x{n}")).collect::<Vec<_>>().join(",");
        let malformed = |count| parse(&request("/ws", &[(name, &format!("{},=", items(count)))], &[])).err();
        assert!(!matches!(malformed(max - 1), None | Some(OpeningError::TooManyItems)), "{name}");
        assert_eq!(malformed(max), Some(OpeningError::TooManyItems), "{name}");
        assert_eq!(malformed(max + 1), Some(OpeningError::TooManyItems), "{name}");
    }
}

#[test]
fn accept_matches_the_example_of_section_1_3() {
    assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn answers_are_checked_against_the_request() {
    type Lines<'a> = &'a [(&'a str, &'a str)];
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const GOOD: Lines<'_> = &[("Upgrade", "WebSocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Accept", ACCEPT)];
    let plain = Answer { protocol: None, extension: None };
    let accepted = "permessage-deflate; server_no_context_takeover";
    let misfit = "permessage-deflate; client_max_window_bits=10";
    let table: &[(u16, Lines<'_>, Lines<'_>, Result<Answer<'_>, AnswerError>)] = &[
        (101, GOOD, &[], Ok(plain)),
        (200, GOOD, &[], Err(AnswerError::Status)),
        (101, &[("Upgrade", "websocket"), ("Sec-WebSocket-Accept", ACCEPT)], &[], Err(AnswerError::NotUpgrade)),
        (101, &GOOD[..2], &[], Err(AnswerError::Accept)),
        (101, &GOOD[..2], &[("Sec-WebSocket-Accept", "x")], Err(AnswerError::Accept)),
        (101, GOOD, &[("Sec-WebSocket-Accept", ACCEPT)], Err(AnswerError::Accept)),
        (101, GOOD, &[("Sec-WebSocket-Protocol", "b")], Ok(Answer { protocol: Some("b"), ..plain })),
        (101, GOOD, &[("Sec-WebSocket-Protocol", "")], Ok(plain)),
        (101, GOOD, &[("Sec-WebSocket-Protocol", "c")], Err(AnswerError::Protocol)),
        (101, GOOD, &[("Sec-WebSocket-Protocol", "B")], Err(AnswerError::Protocol)),
        (101, GOOD, &[("Sec-WebSocket-Protocol", "a, b")], Err(AnswerError::Protocol)),
        (101, GOOD, &[("Sec-WebSocket-Extensions", accepted)], Ok(Answer { extension: Some(accepted), ..plain })),
        (101, GOOD, &[("Sec-WebSocket-Extensions", misfit)], Err(AnswerError::Extension)),
        (101, GOOD, &[("Sec-WebSocket-Extensions", "x-odd")], Err(AnswerError::Extension)),
        (
            101,
            GOOD,
            &[("Sec-WebSocket-Extensions", accepted), ("Sec-WebSocket-Extensions", accepted)],
            Err(AnswerError::Extension),
        ),
    ];
    for (status, base, added, expected) in table {
        let mut response = Response::builder().status(*status);
        for (name, value) in base.iter().chain(*added) {
            response = response.header(*name, *value);
        }
        let response = response.body(()).unwrap();
        let answer = Answer::parse(
            response.status(),
            response.version(),
            response.headers(),
            KEY,
            &["a", "b"],
            &[deflate::NAME],
        );
        assert_eq!(answer, *expected, "{status} {base:?} {added:?}");
    }
    let old = Response::builder().status(101).version(Version::HTTP_10);
    let old = GOOD.iter().fold(old, |response, (name, value)| response.header(*name, *value)).body(()).unwrap();
    let answer = Answer::parse(old.status(), old.version(), old.headers(), KEY, &[], &[]);
    assert_eq!(answer, Err(AnswerError::NotUpgrade));
    let mut response = Response::builder().status(101);
    for (name, value) in GOOD.iter().chain(&[("Sec-WebSocket-Extensions", accepted)]) {
        response = response.header(*name, *value);
    }
    let response = response.body(()).unwrap();
    let answer = Answer::parse(response.status(), response.version(), response.headers(), KEY, &[], &[]);
    assert_eq!(answer, Err(AnswerError::Extension));
}
