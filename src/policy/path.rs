//! Decodes the path of a request target, and rejects ambiguous paths.
//!
//! A route is selected by the decoded path, but the upstream receives the segments as the client sent them and decodes
//! them by its own rules. A path that two parsers could read as two different paths is therefore rejected, not
//! repaired.

use std::fmt;

use crate::ws::grammar::{self, Encoded};

/// A request path that Tollgate and every upstream read in the same way: decoded once, without `.`, `..`, empty
/// segments in the middle, encoded slashes or controls.
///
/// A trailing slash is significant: it is an empty last segment, so `/ws/` is not `/ws`. The decoded text is used only
/// to select a route and to fill its placeholders; it must not be written into the target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    segments: Vec<String>,
}

impl Path {
    /// Parses the path of a request target (RFC 3986 section 3.3, without query), of at most [`PATH_MAX_BYTES`] and at
    /// most [`PATH_MAX_SEGMENTS`] segments.
    ///
    /// # Errors
    ///
    /// A rule that the path breaks; if it breaks several, any one of them.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        let segments = split(path)?.into_iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }

    /// Returns the decoded segments; `/` alone has one empty segment. Only the last can be empty, and none contains a
    /// `/`.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.segments
    }
}

/// Splits a path or a path pattern into its encoded segments. Each must still be checked by [`decode`].
pub(super) fn split(path: &str) -> Result<Vec<&str>, PathError> {
    let Some(relative) = path.strip_prefix('/') else { return Err(PathError::NotAbsolute) };
    if path.len() > PATH_MAX_BYTES {
        return Err(PathError::TooLong);
    }
    if path.contains(['?', '#', ' ']) {
        return Err(PathError::Delimiter);
    }
    let segments: Vec<_> = relative.split('/').collect();
    if segments.len() > PATH_MAX_SEGMENTS {
        return Err(PathError::TooManySegments);
    }
    match segments.split_last() {
        Some((_last, middle)) if middle.iter().any(|segment| segment.is_empty()) => Err(PathError::EmptySegment),
        _ => Ok(segments),
    }
}

/// Decodes one segment, once, and rejects it if it is ambiguous.
pub(super) fn decode(segment: &str) -> Result<String, PathError> {
    let text = String::from_utf8(unescape(segment)?).map_err(|_| PathError::NotUtf8)?;
    if text.contains('/') {
        return Err(PathError::EncodedSlash);
    }
    if text.contains('\\') {
        return Err(PathError::Backslash);
    }
    if text.contains(char::is_control) {
        return Err(PathError::Control);
    }
    if is_dots(&text) {
        return Err(PathError::DotSegment);
    }
    if text.split_once(';').is_some_and(|(name, _parameters)| is_dots(name)) {
        return Err(PathError::DotParameter);
    }
    if changes_when_decoded_again(text.as_bytes()) {
        return Err(PathError::EncodedTwice);
    }
    Ok(text)
}

fn unescape(segment: &str) -> Result<Vec<u8>, PathError> {
    let decoded = grammar::percent_decoded(segment.as_bytes()).map(|part| match part {
        Encoded::Literal(byte) | Encoded::Escaped(byte) => Ok(byte),
        Encoded::BadEscape => Err(PathError::BadEscape),
    });
    decoded.collect()
}

fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

/// Whether text that was decoded once contains an escape that another decoding would turn into a part of the path's
/// structure. Escapes of `%`, letters and digits count, too: no encoder escapes letters and digits, and each of these
/// could complete an escape in the next layer, such as `%2f` from `%%32f`.
fn changes_when_decoded_again(text: &[u8]) -> bool {
    text.windows(3).any(|window| match *window {
        [b'%', high, low] => grammar::hex_pair([high, low]).is_some_and(|byte| {
            matches!(byte, b'/' | b'\\' | b'.' | b';' | b'%') || byte.is_ascii_alphanumeric() || byte.is_ascii_control()
        }),
        _ => false,
    })
}

/// Why a path is rejected: the policy and the upstream could read it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// The path does not start with `/` (RFC 9112 section 3.2.1): it is `*`, or a target in a form that upstreams
    /// resolve differently.
    NotAbsolute,
    /// The path has more than [`PATH_MAX_BYTES`]: an upstream may truncate it.
    TooLong,
    /// The path has more than [`PATH_MAX_SEGMENTS`] segments, the limit of a route's pattern.
    TooManySegments,
    /// The path contains a raw `?`, `#` or space: each ends the path for a parser of URIs (RFC 3986 section 3.3) or of
    /// request lines (RFC 9112 section 3), and is a part of the name for a parser that does not check.
    Delimiter,
    /// A `%` is not followed by two hexadecimal digits (RFC 3986 section 2.1): some decoders keep it, some drop it,
    /// some decode non-standard forms such as `%u002f`.
    BadEscape,
    /// A segment contains `%2F`: a part of the name here, a separator for an upstream that decodes before it splits.
    EncodedSlash,
    /// The path contains `\` or `%5C`, which some upstreams read as `/`.
    Backslash,
    /// The path contains a NUL or another control character, raw or encoded: some upstreams truncate the path there, or
    /// drop the character.
    Control,
    /// The decoded path is not UTF-8: a lenient decoder reads overlong forms of `/` and `.` as `/` and `.`, and text in
    /// another charset is ambiguous.
    NotUtf8,
    /// A segment is `.` or `..`, raw or encoded (RFC 3986 section 5.2.4): an upstream that resolves it serves a path
    /// that the policy did not check.
    DotSegment,
    /// A segment is `.` or `..` followed by a `;`: upstreams that remove parameters (RFC 3986 section 3.3) resolve the
    /// rest.
    DotParameter,
    /// A segment other than the last is empty (`//`): upstreams that merge slashes serve another path.
    EmptySegment,
    /// A decoded segment still contains an escape of a separator, a dot, a `;`, a `%`, a control, a letter or a digit,
    /// such as `%252f`: an upstream behind another decoder sees another path.
    EncodedTwice,
    /// The part that a placeholder matched goes into a header of the request to the upstream, which cannot carry it:
    /// the decoded text is not visible ASCII, begins or ends with a space, or is too long.
    HeaderValue,
}

impl PathError {
    /// Returns the name of the rule in logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotAbsolute => "not_absolute",
            Self::TooLong => "too_long",
            Self::TooManySegments => "too_many_segments",
            Self::Delimiter => "delimiter",
            Self::BadEscape => "bad_escape",
            Self::EncodedSlash => "encoded_slash",
            Self::Backslash => "backslash",
            Self::Control => "control",
            Self::NotUtf8 => "not_utf8",
            Self::DotSegment => "dot_segment",
            Self::DotParameter => "dot_parameter",
            Self::EmptySegment => "empty_segment",
            Self::EncodedTwice => "encoded_twice",
            Self::HeaderValue => "header_value",
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAbsolute => f.write_str("a path starts with `/`"),
            Self::TooLong => write!(f, "a path has at most {PATH_MAX_BYTES} bytes"),
            Self::TooManySegments => write!(f, "a path has at most {PATH_MAX_SEGMENTS} segments"),
            Self::Delimiter => f.write_str("a path must not contain `?`, `#` or a space"),
            Self::BadEscape => f.write_str("a `%` needs two hexadecimal digits: write `%25` for the character itself"),
            Self::EncodedSlash => f.write_str("a segment of a path must not contain an encoded slash"),
            Self::Backslash => f.write_str("a path must not contain a backslash, raw or encoded"),
            Self::Control => f.write_str("a path must not contain control characters, raw or encoded"),
            Self::NotUtf8 => f.write_str("a decoded path must be UTF-8"),
            Self::DotSegment => f.write_str("no segment of a path is `.` or `..`, raw or encoded"),
            Self::DotParameter => f.write_str("no segment of a path is `.` or `..` with parameters"),
            Self::EmptySegment => f.write_str("only the last segment of a path may be empty: `//` is not allowed"),
            Self::EncodedTwice => f.write_str("a path must not be encoded twice"),
            Self::HeaderValue => f.write_str("a part of the path cannot be sent in a header"),
        }
    }
}

impl std::error::Error for PathError {}

/// The maximum length of an encoded path in bytes. Servers commonly limit a whole request line to 8 KiB.
pub const PATH_MAX_BYTES: usize = 4096;

/// The maximum number of segments in a path, including an empty last one.
pub const PATH_MAX_SEGMENTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &[&str]) {
        let parsed = Path::parse(path).map(|path| path.segments);
        assert_eq!(parsed, Ok(expected.iter().map(ToString::to_string).collect()), "{path}");
    }

    fn check_rejected(paths: &[&str], expected: PathError) {
        for path in paths {
            assert_eq!(Path::parse(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn plain_paths_are_accepted() {
        check("/", &[""]);
        check("/ws", &["ws"]);
        check("/ws/lobby", &["ws", "lobby"]);
        check("/a-b_c~d.e/!$&'()*+,=:@", &["a-b_c~d.e", "!$&'()*+,=:@"]);
    }

    #[test]
    fn a_trailing_slash_is_an_empty_last_segment() {
        check("/ws/", &["ws", ""]);
        assert_ne!(Path::parse("/ws/"), Path::parse("/ws"));
    }

    #[test]
    fn escapes_are_decoded_once() {
        check("/%77s", &["ws"]);
        check("/caf%C3%A9/caf%c3%a9/café", &["café", "café", "café"]);
        check("/a%20b%3Fc%23d", &["a b?c#d"]);
        check("/100%25", &["100%"]);
        check("/100%25%20sure", &["100% sure"]);
        check("/room%253Aone", &["room%3Aone"]);
    }

    #[test]
    fn dots_within_names_are_accepted() {
        check("/.well-known/...", &[".well-known", "..."]);
        check("/..a/a../a..b/a%2e", &["..a", "a..", "a..b", "a."]);
    }

    #[test]
    fn parameters_of_names_are_accepted() {
        check("/ws;v=1/;/...;a", &["ws;v=1", ";", "...;a"]);
    }

    #[test]
    fn paths_without_a_leading_slash_are_rejected() {
        check_rejected(&["", "*", "ws", "%2Fws", "http://a/b", "?", "\\ws"], PathError::NotAbsolute);
    }

    #[test]
    fn delimiters_are_rejected() {
        check_rejected(&["/?", "/ws?token=a", "/ws#a", "/a b", "/ HTTP/1.1", "/a? /../b"], PathError::Delimiter);
    }

    #[test]
    fn malformed_escapes_are_rejected() {
        check_rejected(
            &["/%", "/%2", "/a%/b", "/%2/f", "/%zz", "/%u002f", "/%+2", "/%%32f", "/%é1"],
            PathError::BadEscape,
        );
    }

    #[test]
    fn encoded_slashes_are_rejected() {
        check_rejected(&["/a%2Fb", "/a%2fb", "/%2f", "/..%2f..%2fetc"], PathError::EncodedSlash);
    }

    #[test]
    fn backslashes_are_rejected() {
        check_rejected(&["/a\\b", "/a%5Cb", "/a%5cb", "/..\\", "/\\\\evil.example"], PathError::Backslash);
    }

    #[test]
    fn controls_are_rejected() {
        check_rejected(
            &["/a%00", "/%00", "/a%0d%0aX-Evil:%20b", "/a\n", "/a\tb", "/%7f", "/%C2%85"],
            PathError::Control,
        );
    }

    #[test]
    fn invalid_utf8_is_rejected() {
        // The last three are overlong forms of `/` and `.`, and a surrogate.
        check_rejected(&["/%ff", "/%e9", "/%c3", "/%c0%af", "/%c0%ae%c0%ae", "/%ed%a0%80"], PathError::NotUtf8);
    }

    #[test]
    fn dot_segments_are_rejected() {
        check_rejected(
            &["/.", "/..", "/./", "/../ws", "/ws/..", "/ws/../admin", "/%2e", "/.%2e", "/%2E.", "/%2e%2E/admin"],
            PathError::DotSegment,
        );
    }

    #[test]
    fn dot_segments_with_parameters_are_rejected() {
        check_rejected(&["/..;", "/.;", "/ws/..;/admin", "/..;a=b/c", "/%2e%2e%3bx", "/..;;"], PathError::DotParameter);
    }

    #[test]
    fn empty_segments_are_rejected() {
        check_rejected(&["//", "//ws", "/ws//", "/ws//lobby", "///", "//evil.example/ws"], PathError::EmptySegment);
    }

    #[test]
    fn double_encoding_is_rejected() {
        check_rejected(
            &[
                "/a%252fb",
                "/a%252Fb",
                "/%255c",
                "/%252e%252e",
                "/.%252e",
                "/%25252f",
                "/%2500",
                "/..%253b",
                "/%25%2532f",
                "/%2541",
            ],
            PathError::EncodedTwice,
        );
    }

    #[test]
    fn length_is_bounded() {
        let longest = format!("/{}", "a".repeat(PATH_MAX_BYTES - 1));
        assert!(Path::parse(&longest).is_ok());
        check_rejected(&[&format!("{longest}a")], PathError::TooLong);
    }

    #[test]
    fn segments_are_bounded() {
        let most = "/a".repeat(PATH_MAX_SEGMENTS);
        assert!(Path::parse(&most).is_ok());
        check_rejected(&[&format!("{most}/"), &format!("{most}/a")], PathError::TooManySegments);
    }
}
