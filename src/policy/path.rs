//! The path of a request target, decoded and normalised, or refused.
//!
//! A route is chosen by the decoded path, but the upstream gets the path as the client wrote it and decodes it by its
//! own rules. So whatever two readers could take for two different paths is refused here rather than repaired.

use std::fmt;

/// A request path that every party on the way reads in the same way: decoded once, without `.`, `..`, empty segments
/// in the middle, encoded slashes or controls.
///
/// A trailing slash is significant: it is an empty last segment, so `/ws/` is not `/ws`. The decoded text is only for
/// choosing a route and filling its placeholders; it must not be written into a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    segments: Vec<String>,
}

impl Path {
    /// Reads the path part of a request target (RFC 3986 section 3.3, without query), at most [`PATH_MAX_BYTES`] long
    /// and of at most [`PATH_MAX_SEGMENTS`] segments.
    ///
    /// # Errors
    ///
    /// The first rule that the path breaks; a path that breaks several may be reported for any one of them.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        let segments = split(path)?.into_iter().map(decode).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }

    /// The decoded segments; `/` alone has one empty segment. Only the last can be empty, and none holds a `/`.
    #[must_use]
    pub fn segments(&self) -> &[String] {
        &self.segments
    }
}

/// The segments as written, of a path or of a path pattern. Each has yet to pass [`decode`].
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

/// Decodes one segment, once, and refuses it if it could be read in two ways.
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
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else { return Err(PathError::BadEscape) };
        decoded.push(hex_pair(high, low).ok_or(PathError::BadEscape)?);
    }
    Ok(decoded)
}

fn is_dots(text: &str) -> bool {
    matches!(text, "." | "..")
}

/// Whether text that was decoded once holds an escape that a further decoding would turn into a part of the path's
/// structure. An escaped `%` counts, and so do letters and digits, which no encoder escapes: either could complete an
/// escape in the next layer, such as `%2f` from `%%32f`.
fn changes_when_decoded_again(text: &[u8]) -> bool {
    text.windows(3).any(|window| match *window {
        [b'%', high, low] => hex_pair(high, low).is_some_and(|byte| {
            matches!(byte, b'/' | b'\\' | b'.' | b';' | b'%') || byte.is_ascii_alphanumeric() || byte.is_ascii_control()
        }),
        _ => false,
    })
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Why a path is refused: it could mean one thing to the policy and another to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It does not start with `/` (RFC 9112 section 3.2.1): `*`, or a target in a form that upstreams resolve each in
    /// their own way.
    NotAbsolute,
    /// It has more than [`PATH_MAX_BYTES`]: an upstream may cut it where we do not.
    TooLong,
    /// It has more than [`PATH_MAX_SEGMENTS`] segments, which no route of ours can name.
    TooManySegments,
    /// It holds a raw `?`, `#` or space: each ends the path for whoever reads a URI (RFC 3986 section 3.3) or a request
    /// line (RFC 9112 section 3), and is a part of the name for whoever does not look.
    Delimiter,
    /// A `%` is not followed by two hexadecimal digits (RFC 3986 section 2.1): some readers keep it as it stands, some
    /// drop it, some know forms of their own such as `%u002f`.
    BadEscape,
    /// A segment holds `%2F`: a slash of the name to us, a separator to an upstream that decodes before it splits.
    EncodedSlash,
    /// It holds `\` or `%5C`, which some upstreams take for `/`.
    Backslash,
    /// It holds a NUL or another control character, raw or encoded: upstreams cut the path there, or drop it.
    Control,
    /// It is not UTF-8 once decoded: overlong forms of `/` and `.` are `/` and `.` to a lenient decoder, and text in
    /// another charset has no one reading.
    NotUtf8,
    /// A segment is `.` or `..`, raw or encoded (RFC 3986 section 5.2.4): an upstream that resolves it serves a path
    /// that the policy never saw.
    DotSegment,
    /// A segment is `.` or `..` followed by a `;`: upstreams that cut parameters off (RFC 3986 section 3.3) resolve
    /// what is left.
    DotParameter,
    /// A segment other than the last is empty (`//`): upstreams that merge slashes serve another path.
    EmptySegment,
    /// A segment still holds an escape after decoding, of a separator, a dot, a `;`, a `%`, a control, a letter or a
    /// digit, such as `%252f`: an upstream behind one more decoder sees another path.
    EncodedTwice,
}

impl PathError {
    /// A fixed word for logs.
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
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAbsolute => f.write_str("a path starts with `/`"),
            Self::TooLong => write!(f, "a path has at most {PATH_MAX_BYTES} bytes"),
            Self::TooManySegments => write!(f, "a path has at most {PATH_MAX_SEGMENTS} segments"),
            Self::Delimiter => f.write_str("a path holds no `?`, `#` or space"),
            Self::BadEscape => f.write_str("two hexadecimal digits follow a `%`: write `%25` for the character itself"),
            Self::EncodedSlash => f.write_str("a segment of a path holds no encoded slash"),
            Self::Backslash => f.write_str("a path holds no backslash, raw or encoded"),
            Self::Control => f.write_str("a path holds no control characters, raw or encoded"),
            Self::NotUtf8 => f.write_str("a path is UTF-8 once it is decoded"),
            Self::DotSegment => f.write_str("no segment of a path is `.` or `..`, raw or encoded"),
            Self::DotParameter => f.write_str("no segment of a path is `.` or `..` with parameters"),
            Self::EmptySegment => f.write_str("only the last segment of a path may be empty: `//` is not allowed"),
            Self::EncodedTwice => f.write_str("a path is not encoded twice"),
        }
    }
}

impl std::error::Error for PathError {}

/// The longest path in bytes, as written. Servers commonly bound a whole request line at 8 KiB.
pub const PATH_MAX_BYTES: usize = 4096;

/// The most segments of a path, an empty last one included.
pub const PATH_MAX_SEGMENTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &[&str]) {
        let parsed = Path::parse(path).map(|path| path.segments);
        assert_eq!(parsed, Ok(expected.iter().map(ToString::to_string).collect()), "{path}");
    }

    fn refuse(paths: &[&str], expected: PathError) {
        for path in paths {
            assert_eq!(Path::parse(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn plain_paths() {
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
    fn dots_that_are_no_dot_segments_pass() {
        check("/.well-known/...", &[".well-known", "..."]);
        check("/..a/a../a..b/a%2e", &["..a", "a..", "a..b", "a."]);
    }

    #[test]
    fn parameters_of_names_pass() {
        check("/ws;v=1/;/...;a", &["ws;v=1", ";", "...;a"]);
    }

    #[test]
    fn not_absolute() {
        refuse(&["", "*", "ws", "%2Fws", "http://a/b", "?", "\\ws"], PathError::NotAbsolute);
    }

    #[test]
    fn delimiters() {
        refuse(&["/?", "/ws?token=a", "/ws#a", "/a b", "/ HTTP/1.1", "/a? /../b"], PathError::Delimiter);
    }

    #[test]
    fn bad_escapes() {
        refuse(&["/%", "/%2", "/a%/b", "/%2/f", "/%zz", "/%u002f", "/%+2", "/%%32f", "/%é1"], PathError::BadEscape);
    }

    #[test]
    fn encoded_slashes() {
        refuse(&["/a%2Fb", "/a%2fb", "/%2f", "/..%2f..%2fetc"], PathError::EncodedSlash);
    }

    #[test]
    fn backslashes() {
        refuse(&["/a\\b", "/a%5Cb", "/a%5cb", "/..\\", "/\\\\evil.example"], PathError::Backslash);
    }

    #[test]
    fn controls() {
        refuse(&["/a%00", "/%00", "/a%0d%0aX-Evil:%20b", "/a\n", "/a\tb", "/%7f", "/%C2%85"], PathError::Control);
    }

    #[test]
    fn text_that_is_not_utf8() {
        // The last three are overlong forms of `/` and `.`, and a surrogate.
        refuse(&["/%ff", "/%e9", "/%c3", "/%c0%af", "/%c0%ae%c0%ae", "/%ed%a0%80"], PathError::NotUtf8);
    }

    #[test]
    fn dot_segments() {
        refuse(
            &["/.", "/..", "/./", "/../ws", "/ws/..", "/ws/../admin", "/%2e", "/.%2e", "/%2E.", "/%2e%2E/admin"],
            PathError::DotSegment,
        );
    }

    #[test]
    fn dot_segments_with_parameters() {
        refuse(&["/..;", "/.;", "/ws/..;/admin", "/..;a=b/c", "/%2e%2e%3bx", "/..;;"], PathError::DotParameter);
    }

    #[test]
    fn empty_segments() {
        refuse(&["//", "//ws", "/ws//", "/ws//lobby", "///", "//evil.example/ws"], PathError::EmptySegment);
    }

    #[test]
    fn paths_that_are_encoded_twice() {
        refuse(
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
        refuse(&[&format!("{longest}a")], PathError::TooLong);
    }

    #[test]
    fn segments_are_bounded() {
        let most = "/a".repeat(PATH_MAX_SEGMENTS);
        assert!(Path::parse(&most).is_ok());
        refuse(&[&format!("{most}/"), &format!("{most}/a")], PathError::TooManySegments);
    }
}
