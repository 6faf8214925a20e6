//! Tests of `origin`: tables of admitted and rejected origins, and of malformed patterns.

use super::*;

fn origins(patterns: &[&str]) -> Origins {
    let patterns = patterns.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")));
    Origins::new(Some(patterns.collect()), MissingOrigin::Refuse)
}

fn check(pattern: &str, admitted: &[&str], refused: &[&str]) {
    let origins = origins(&[pattern]);
    for (texts, expected) in [(admitted, true), (refused, false)] {
        for text in texts {
            assert_eq!(origins.allow(Some(text.as_bytes())), expected, "{pattern} {text:?}");
        }
    }
}

fn refuse(pattern: &str, message: &str) {
    let parsed = pattern.parse::<OriginPattern>().map_err(|error| error.to_string());
    assert_eq!(parsed, Err(message.into()), "{pattern}");
}

const SITE: &str = "https://example.com";

#[test]
fn an_equal_origin_is_admitted() {
    check(SITE, &["https://example.com"], &[]);
    check("http://localhost:3000", &["http://localhost:3000"], &["http://localhost", "http://localhost:3001"]);
    check("http://[::1]:3000", &["http://[::1]:3000", "http://[0::1]:3000"], &["http://[::2]:3000"]);
    check("http://127.0.0.1", &["http://127.0.0.1"], &["http://127.1", "http://2130706433", "http://0x7f.0.0.1"]);
}

#[test]
fn the_origin_as_a_prefix_is_rejected() {
    check(
        SITE,
        &[],
        &[
            "https://example.com.evil.com",
            "https://example.com.",
            "https://example.comevil.com",
            "https://example.com-evil.com",
            "https://example.co",
        ],
    );
}

#[test]
fn the_origin_as_a_suffix_is_rejected() {
    check(SITE, &[], &["https://evilexample.com", "https://evil.com/https://example.com", "https://a.example.com"]);
}

#[test]
fn user_information_is_rejected() {
    check(SITE, &[], &["https://example.com@evil.com", "https://user@example.com", "https://example.com:443@evil.com"]);
}

#[test]
fn another_scheme_is_rejected() {
    check(SITE, &[], &["http://example.com", "http://example.com:443", "wss://example.com", "//example.com"]);
    check("http://example.com", &[], &["https://example.com", "https://example.com:80"]);
}

#[test]
fn another_port_is_rejected() {
    check(SITE, &[], &["https://example.com:8443", "https://example.com:80", "https://example.com:4430"]);
    check(SITE, &[], &["https://example.com:", "https://example.com:0443", "https://example.com:65979"]);
    check("https://example.com:8443", &["https://example.com:8443"], &["https://example.com"]);
}

#[test]
fn the_default_port_may_be_omitted() {
    check(SITE, &["https://example.com:443"], &[]);
    check("https://example.com:443", &["https://example.com", "https://example.com:443"], &["http://example.com"]);
    check("http://example.com:80", &["http://example.com"], &["https://example.com"]);
    check("http://example.com:443", &["http://example.com:443"], &["http://example.com", "https://example.com"]);
}

#[test]
fn null_is_admitted_only_if_it_is_listed() {
    check(SITE, &[], &["null"]);
    check("https://*.example.com", &[], &["null"]);
    check("null", &["null"], &["NULL", "Null", "null ", "null://null", "https://null", "", SITE]);
}

#[test]
fn case_is_ignored() {
    check(SITE, &["HTTPS://Example.COM"], &[]);
    check("HTTPS://EXAMPLE.com", &["https://example.com"], &[]);
}

#[test]
fn a_trailing_slash_is_rejected() {
    check(
        SITE,
        &[],
        &["https://example.com/", "https://example.com/a", "https://example.com?a", "https://example.com#"],
    );
    check(SITE, &[], &["https://example.com\\", "https:/example.com", "https:example.com", "https:\\\\example.com"]);
}

#[test]
fn a_trailing_dot_is_another_origin() {
    check(SITE, &[], &["https://example.com.", "https://example.com.:443"]);
    check("https://*.example.com", &[], &["https://a.example.com."]);
}

#[test]
fn unicode_is_rejected_and_punycode_is_compared_literally() {
    // The first has a Cyrillic letter, the second a full stop of another script, the third a fullwidth letter.
    check(SITE, &[], &["https://ex\u{430}mple.com", "https://example\u{3002}com", "https://\u{ff45}xample.com"]);
    check("https://xn--bcher-kva.example", &["https://xn--bcher-kva.example"], &["https://bücher.example"]);
}

#[test]
fn an_empty_header_is_rejected() {
    check(SITE, &[], &["", " "]);
}

#[test]
fn two_origins_are_rejected() {
    check(
        SITE,
        &[],
        &[
            "https://example.com https://evil.com",
            "https://evil.com https://example.com",
            "https://example.com https://example.com",
            "https://example.com, https://example.com",
            "https://example.com,https://evil.com",
            "null https://example.com",
        ],
    );
}

#[test]
fn spaces_controls_and_invalid_utf8_are_rejected() {
    check(
        SITE,
        &[],
        &[" https://example.com", "https://example.com ", "https://example.com\t", "https://example.com\0"],
    );
    assert!(!origins(&[SITE]).allow(Some(b"https://example.com\xff")));
    assert!(!origins(&[SITE]).allow(Some(b"\xff")));
}

#[test]
fn a_wildcard_admits_subdomains_at_any_depth_only() {
    check(
        "https://*.example.com",
        &["https://a.example.com", "https://a.b.example.com", "https://A.EXAMPLE.com:443"],
        &[
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.com",
            "https://a.example.com:8443",
            "http://a.example.com",
            "https://*.example.com",
            "https://a..example.com",
            "https://evil.com/.example.com",
            "https://evil.com#.example.com",
            "https://evil.com\\.example.com",
            "https://evil.com:443.example.com",
            "https://192.0.2.1",
            "https://[::1]",
        ],
    );
    check("https://*.example.com:8443", &["https://a.example.com:8443"], &["https://a.example.com"]);
}

#[test]
fn other_schemes_compare_byte_by_byte() {
    let id = "chrome-extension://abcdefghijklmnopabcdefghijklmnop";
    check(id, &[id, "Chrome-Extension://abcdefghijklmnopabcdefghijklmnop"], &["chrome-extension://abc", "https://abc"]);
    check(id, &[], &["chrome-extension://ABCDEFGHIJKLMNOPABCDEFGHIJKLMNOP", &format!("{id}/"), &format!("{id}:443")]);
    check("capacitor://localhost", &["capacitor://localhost"], &["ionic://localhost", "http://localhost"]);
    check("app://x:81", &["app://x:81"], &["app://x", "app://x:081"]);
}

#[test]
fn other_schemes_may_have_no_host() {
    check("file://", &["file://", "FILE://"], &["file:///", "file:", "file://localhost", "null", "app://", "://", ""]);
    check("FILE://", &["file://"], &[]);
    check("app://", &["app://"], &["app://x", "file://", "app:///", "app://:"]);
    check("file://server", &["file://server"], &["file://"]);
    for origin in ["moz-extension://1b4d5a1e-0c5f", "vscode-webview://abc", "ionic://localhost", "tauri://localhost"] {
        check(origin, &[origin], &[&format!("{origin}/"), "null", "file://"]);
    }
    check(SITE, &[], &["https://", "https://:443", "http://", "file://"]);
}

#[test]
fn null_and_file_origins_do_not_identify_a_page() {
    for (text, anyone) in [
        ("null", true),
        ("file://", true),
        ("File://server", true),
        ("app://", false),
        ("capacitor://localhost", false),
        (SITE, false),
        ("https://*.example.com", false),
    ] {
        assert_eq!(text.parse::<OriginPattern>().unwrap().is_anyone(), anyone, "{text}");
    }
}

#[test]
fn any_of_several_patterns_admits() {
    let origins = origins(&["https://a.example", "null", "https://*.b.example"]);
    for (origin, admitted) in
        [("https://a.example", true), ("null", true), ("https://x.b.example", true), ("https://b.example", false)]
    {
        assert_eq!(origins.allow(Some(origin.as_bytes())), admitted, "{origin}");
    }
}

#[test]
fn the_route_decides_on_a_missing_origin() {
    for patterns in [None, Some(vec![]), Some(vec![SITE.parse().unwrap()])] {
        assert!(Origins::new(patterns.clone(), MissingOrigin::Allow).allow(None), "{patterns:?}");
        assert!(!Origins::new(patterns.clone(), MissingOrigin::Refuse).allow(None), "{patterns:?}");
    }
}

#[test]
fn without_a_list_every_origin_is_admitted() {
    let open = Origins::new(None, MissingOrigin::Refuse);
    assert!(open.is_open());
    for origin in ["https://evil.com", "null", "", "no origin at all"] {
        assert!(open.allow(Some(origin.as_bytes())), "{origin}");
    }
}

#[test]
fn an_empty_list_admits_no_origin() {
    let none = origins(&[]);
    assert!(!none.is_open());
    assert!(!none.allow(Some(SITE.as_bytes())) && !none.allow(Some(b"null")));
}

#[test]
fn errors_suggest_the_correct_text() {
    refuse("*", "leave `origins` out to admit every origin");
    refuse("https://chat.example.com/", "an origin has no path: write `https://chat.example.com`");
    refuse("https://chat.example.com:8443/ws?a", "an origin has no path: write `https://chat.example.com:8443`");
    refuse("https://chat.example.com?a", "an origin has no path: write `https://chat.example.com`");
    refuse("chat.example.com", "an origin starts with a scheme: write `https://chat.example.com`");
    refuse("chat.example.com/ws", "an origin starts with a scheme: write `https://chat.example.com`");
    refuse("https://me:secret@example.com", "an origin has no user information: write `https://example.com`");
    refuse("https://bücher.example", "a host must be ASCII: write the `xn--` form of the name");
}

#[test]
fn malformed_patterns_are_rejected() {
    let cases = [
        ("https://", OriginPatternError::Host(HostError::Empty)),
        ("http://", OriginPatternError::Host(HostError::Empty)),
        ("https://:443", OriginPatternError::Host(HostError::Empty)),
        ("file:", OriginPatternError::NoScheme("file:".into())),
        ("file:///", OriginPatternError::Path("file://".into())),
        ("file://*", OriginPatternError::Wildcard),
        ("://example.com", OriginPatternError::Scheme),
        ("1http://example.com", OriginPatternError::Scheme),
        (" https://example.com", OriginPatternError::Scheme),
        ("*://example.com", OriginPatternError::Scheme),
        ("https://*", OriginPatternError::Wildcard),
        ("https://a*.example.com", OriginPatternError::Wildcard),
        ("https://*a.example.com", OriginPatternError::Wildcard),
        ("https://*.*.example.com", OriginPatternError::Wildcard),
        ("https://a.*.example.com", OriginPatternError::Wildcard),
        ("https://example.com:*", OriginPatternError::Wildcard),
        ("https://*.192.0.2.1", OriginPatternError::Wildcard),
        ("https://*.[::1]", OriginPatternError::Wildcard),
        ("chrome-extension://*", OriginPatternError::Wildcard),
        ("app://*.example", OriginPatternError::Wildcard),
        ("https://example.com:", OriginPatternError::Port),
        ("https://example.com:0", OriginPatternError::Port),
        ("https://example.com:65536", OriginPatternError::Port),
        ("https://example.com.", OriginPatternError::Host(HostError::EmptyLabel)),
        ("https://*.example.com.", OriginPatternError::Host(HostError::EmptyLabel)),
        ("https://*.", OriginPatternError::Host(HostError::Empty)),
        ("https://a.example https://b.example", OriginPatternError::Host(HostError::Character(' '))),
        ("https://a.example ", OriginPatternError::Host(HostError::Character(' '))),
        ("https://127.1", OriginPatternError::Host(HostError::Address)),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<OriginPattern>(), Err(error), "{text}");
    }
}
