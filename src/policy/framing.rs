//! The rules for the head of an ordinary request that is passed on (RFC 9112): what other parties may delimit or address
//! differently is rejected.
//!
//! The parser of the connection normalises some heads in silence: it drops a `Content-Length` beside a
//! `Transfer-Encoding` or beside an equal one, and the fragment of a target. The shape of the head as it arrived shows
//! whether it did.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Uri};

use crate::ws::handshake::{CONNECTION_NAMES_MAX, tokens};

/// The rule that a request breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FramingError {
    /// A line that ends with a bare LF (section 2.2).
    LineEnd,
    /// Not exactly one `Host` (section 3.2).
    Host,
    /// A target other than a path or an absolute URI of HTTP with the authority of `Host` (section 3.2), or one with a
    /// fragment.
    Target,
    /// More than one `Content-Length`, one that is not a number, or one beside a `Transfer-Encoding` (section 6.3).
    Length,
    /// A `Transfer-Encoding` other than exactly `chunked` (section 6.1).
    TransferEncoding,
    /// More than [`CONNECTION_NAMES_MAX`] names in `Connection`.
    TooManyNames,
    /// A body that is not delimited as its head says (sections 6.3 and 7.1).
    Body,
}

impl FramingError {
    /// Returns its name in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::LineEnd => "line_end",
            Self::Host => "host",
            Self::Target => "target",
            Self::Length => "length",
            Self::TransferEncoding => "transfer_encoding",
            Self::TooManyNames => "too_many_names",
            Self::Body => "body",
        }
    }
}

/// The shape of a head as it arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadShape {
    /// The number of bytes of the request line, without its end.
    pub request_line_len: u32,
    /// The number of lines, with the request line and without the empty one.
    pub lines: u32,
    /// The number of CR.
    pub crs: u32,
    /// The number of LF.
    pub lfs: u32,
}

/// The length of a body, as the head declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// This many bytes.
    Known(u64),
    /// Chunks.
    Chunked,
}

/// Checks the head of a request. Returns the length of its body.
///
/// # Errors
/// The first rule that the request breaks.
pub fn check(
    shape: HeadShape,
    (method, uri): (&Method, &Uri),
    headers: &HeaderMap,
) -> Result<BodyLength, FramingError> {
    if shape.crs != shape.lfs {
        return Err(FramingError::LineEnd);
    }
    // The request line is not a field.
    if u32::try_from(headers.len()).ok().and_then(|fields| fields.checked_add(1)) != Some(shape.lines) {
        return Err(FramingError::Length);
    }
    let host = only(headers, &HOST).map_err(|Repeated| FramingError::Host)?.ok_or(FramingError::Host)?;
    check_target(shape, method, uri, host)?;
    if tokens(headers, &CONNECTION).nth(CONNECTION_NAMES_MAX).is_some() {
        return Err(FramingError::TooManyNames);
    }
    let coding = only(headers, &TRANSFER_ENCODING).map_err(|Repeated| FramingError::TransferEncoding)?;
    let length = only(headers, &CONTENT_LENGTH).map_err(|Repeated| FramingError::Length)?;
    match (coding, length) {
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
        (Some(_), None) => Err(FramingError::TransferEncoding),
        (Some(_), Some(_)) => Err(FramingError::Length),
        (None, None) => Ok(BodyLength::Known(0)),
        (None, Some(length)) => {
            let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|digits| digits.parse().ok()).ok_or(FramingError::Length)?;
            Ok(BodyLength::Known(length))
        }
    }
}

/// Checks the head of a response with a body: no coding but exactly `chunked` is decoded, so that another one must not be
/// dropped with its header, and a length beside it may be that of a second response (section 6.3).
///
/// # Errors
/// The rule that the response breaks.
pub fn check_response(headers: &HeaderMap) -> Result<(), FramingError> {
    let coding = only(headers, &TRANSFER_ENCODING).map_err(|Repeated| FramingError::TransferEncoding)?;
    match coding {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Err(FramingError::TransferEncoding),
        Some(_) if headers.contains_key(CONTENT_LENGTH) => Err(FramingError::Length),
        Some(_) | None => Ok(()),
    }
}

fn check_target(shape: HeadShape, method: &Method, uri: &Uri, host: &HeaderValue) -> Result<(), FramingError> {
    let prefix = match (uri.scheme_str(), uri.authority()) {
        (None, None) => 0,
        (Some(scheme @ ("http" | "https")), Some(authority))
            if authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            scheme.len() + "://".len() + authority.as_str().len()
        }
        _ => return Err(FramingError::Target),
    };
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    if !path.starts_with('/') {
        return Err(FramingError::Target);
    }
    // An absolute URI may have no path.
    let is_bare = prefix > 0 && path == "/";
    let line = |path_len: usize| method.as_str().len() + prefix + path_len + "  HTTP/1.1".len();
    let came = usize::try_from(shape.request_line_len).unwrap_or(usize::MAX);
    let is_whole = came == line(path.len()) || is_bare && came == line(0);
    if is_whole { Ok(()) } else { Err(FramingError::Target) }
}

/// A header that occurs more than once.
struct Repeated;

fn only<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Result<Option<&'a HeaderValue>, Repeated> {
    let mut lines = headers.get_all(name).into_iter();
    let first = lines.next();
    if lines.next().is_some() { Err(Repeated) } else { Ok(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a head whose fields are those that the parser leaves.
    fn check_head(line: &str, fields: &[(&'static str, &str)], lines: u32) -> Result<BodyLength, FramingError> {
        let mut parts = line.split(' ');
        let method: Method = parts.next().unwrap().parse().unwrap();
        let uri: Uri = parts.next().unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let shape = HeadShape { request_line_len: line.len().try_into().unwrap(), lines, crs: 3, lfs: 3 };
        check(shape, (&method, &uri), &headers)
    }

    #[test]
    fn targets() {
        let table = [
            ("GET / HTTP/1.1", Ok(())),
            ("GET /a?b HTTP/1.1", Ok(())),
            ("GET http://a.example/x HTTP/1.1", Ok(())),
            ("GET http://A.example HTTP/1.1", Ok(())),
            ("GET https://a.example?x HTTP/1.1", Err(FramingError::Target)),
            ("GET http://b.example/x HTTP/1.1", Err(FramingError::Target)),
            ("GET http://u@a.example/x HTTP/1.1", Err(FramingError::Target)),
            ("GET ftp://a.example/x HTTP/1.1", Err(FramingError::Target)),
            ("GET /a#b HTTP/1.1", Err(FramingError::Target)),
            ("OPTIONS * HTTP/1.1", Err(FramingError::Target)),
            ("CONNECT a.example HTTP/1.1", Err(FramingError::Target)),
        ];
        for (line, expected) in table {
            let checked = check_head(line, &[("host", "a.example")], 2);
            assert_eq!(checked, expected.map(|()| BodyLength::Known(0)), "{line}");
        }
    }

    #[test]
    fn lengths_and_hosts() {
        let host = ("host", "a.example");
        let known = |length| Ok(BodyLength::Known(length));
        let table: [(&[(&'static str, &str)], u32, _); 10] = [
            (&[host, ("content-length", "7")], 3, known(7)),
            (&[host, ("content-length", "+7")], 3, Err(FramingError::Length)),
            (&[host, ("content-length", "7, 7")], 3, Err(FramingError::Length)),
            (&[host, ("content-length", "7"), ("content-length", "7")], 4, Err(FramingError::Length)),
            // The parser has dropped a field.
            (&[host, ("content-length", "7")], 4, Err(FramingError::Length)),
            (&[host, ("transfer-encoding", "Chunked")], 3, Ok(BodyLength::Chunked)),
            (&[host, ("transfer-encoding", "gzip, chunked")], 3, Err(FramingError::TransferEncoding)),
            (
                &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                4,
                Err(FramingError::TransferEncoding),
            ),
            (&[], 1, Err(FramingError::Host)),
            (&[host, host], 3, Err(FramingError::Host)),
        ];
        for (fields, lines, expected) in table {
            assert_eq!(check_head("GET / HTTP/1.1", fields, lines), expected, "{fields:?}");
        }
        let names = vec!["a"; CONNECTION_NAMES_MAX + 1].join(",");
        let checked = check_head("GET / HTTP/1.1", &[host, ("connection", &names)], 3);
        assert_eq!(checked, Err(FramingError::TooManyNames));
    }

    #[test]
    fn a_response_is_delimited_in_one_way() {
        let (chunked, length) = (("transfer-encoding", "Chunked"), ("content-length", "7"));
        let coding = Err(FramingError::TransferEncoding);
        let table: [(&[(&'static str, &'static str)], _); 8] = [
            (&[], Ok(())),
            (&[length], Ok(())),
            (&[chunked], Ok(())),
            (&[chunked, length], Err(FramingError::Length)),
            (&[chunked, chunked], coding),
            (&[("transfer-encoding", "gzip, chunked")], coding),
            (&[("transfer-encoding", "gzip")], coding),
            (&[("transfer-encoding", "identity"), length], coding),
        ];
        for (fields, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(check_response(&headers), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_bare_lf_is_rejected() {
        let (uri, headers) = (Uri::from_static("/"), HeaderMap::new());
        let shape = HeadShape { lines: 1, crs: 2, lfs: 3, request_line_len: 14 };
        assert_eq!(check(shape, (&Method::GET, &uri), &headers), Err(FramingError::LineEnd));
    }
}
