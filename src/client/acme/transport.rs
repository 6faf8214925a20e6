//! Sends the requests of the ACME library by the HTTP client of Tollgate, and checks what the library would trust.
//!
//! The library panics at a URL that is not valid and at a `Retry-After` beyond the range of the clock, and shows no
//! status of a response that is not a problem document.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use instant_acme::{BodyWrapper, BytesResponse, Error, Problem};
use serde::Deserialize;

use super::schedule::RETRY_AFTER_MAX;
use crate::client::{ClientError, HttpClient, RequestLimits};
use crate::policy::remote::HttpUrl;
use crate::runtime::clock;

/// The limits of a request. A chain of certificates has less than 20 KiB.
const LIMITS: RequestLimits = RequestLimits { timeout: Duration::from_secs(30), body_max_bytes: 256 * 1024 };

/// The requests of one order to one certificate authority. Clones share what the responses demanded.
#[derive(Clone)]
pub(super) struct Transport {
    client: HttpClient,
    directory: HttpUrl,
    retry_after: Arc<Mutex<Option<Duration>>>,
}

/// Why a response is not passed to the library.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TransportError {
    /// There is none.
    Client(ClientError),
    /// The certificate authority names a URL that Tollgate sends no requests to.
    Url(&'static str),
    /// The directory is not one of RFC 8555 section 7.1.1.
    Directory,
    /// The status of an error without a problem document, or of a failure of the certificate authority itself, with what
    /// that says.
    Status(StatusCode, String),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Url(what) => write!(f, "{what} is not a URL with https and a host"),
            Self::Directory => f.write_str("the URL of `directory` does not answer with an ACME directory"),
            Self::Status(status, said) => write!(f, "the certificate authority answers {status}{said}"),
        }
    }
}

impl StdError for TransportError {}

/// The parts of a directory that every order needs.
#[derive(Deserialize)]
struct Directory {
    #[serde(rename = "newNonce")]
    nonce: String,
    #[serde(rename = "newAccount")]
    account: String,
    #[serde(rename = "newOrder")]
    order: String,
}

impl Transport {
    pub fn new(client: HttpClient, directory: HttpUrl) -> Self {
        Self { client, directory, retry_after: Arc::default() }
    }

    /// Returns how long the last response demanded to wait, and forgets it.
    pub fn take_retry_after(&self) -> Option<Duration> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Fetches the directory.
    ///
    /// # Errors
    /// If there is none.
    pub async fn check_directory(&self) -> Result<(), TransportError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.directory.uri().clone();
        self.send(request).await.map(drop)
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        let url = HttpUrl::parse(&request.uri().to_string()).map_err(|_| TransportError::Url("a resource"))?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let mut response = self.client.send_body(request, LIMITS).await.map_err(TransportError::Client)?;
        let (status, demanded) = (response.status(), limit_retry_after(response.headers_mut()));
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = demanded;
        if status.is_client_error() || status.is_server_error() {
            // The library reads it as a problem document, of which every member is optional, the status too.
            return match serde_json::from_slice::<Problem>(response.body()) {
                Ok(_) if status.is_client_error() => Ok(response),
                Ok(problem) => Err(TransportError::Status(status, format!(": {problem}"))),
                Err(_) => Err(TransportError::Status(status, String::new())),
            };
        }
        if url == self.directory {
            check_directory(&response)?;
        }
        Ok(response)
    }
}

impl instant_acme::HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let transport = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let response = transport.send(Request::from_parts(head, body)).await;
            let (head, body) = response.map_err(|error| Error::Other(Box::new(error)))?.into_parts();
            Ok(BytesResponse { parts: head, body: Box::new(body) })
        })
    }
}

fn check_directory(response: &Response<Bytes>) -> Result<(), TransportError> {
    if response.status() != StatusCode::OK {
        return Err(TransportError::Status(response.status(), String::new()));
    }
    let directory: Directory = serde_json::from_slice(response.body()).map_err(|_| TransportError::Directory)?;
    let urls = [
        ("`newNonce` of the directory", directory.nonce),
        ("`newAccount` of the directory", directory.account),
        ("`newOrder` of the directory", directory.order),
    ];
    for (what, url) in urls {
        HttpUrl::parse(&url).map_err(|_| TransportError::Url(what))?;
    }
    Ok(())
}

/// Returns the time of `Retry-After` (RFC 9110 section 10.2.3), at most [`RETRY_AFTER_MAX`], and writes it as seconds. A
/// value that cannot be read is removed.
fn limit_retry_after(headers: &mut HeaderMap) -> Option<Duration> {
    let written = headers.remove(RETRY_AFTER)?;
    let seconds = retry_after(written.to_str().ok()?.trim())?.min(RETRY_AFTER_MAX).as_secs();
    headers.insert(RETRY_AFTER, seconds.into());
    Some(Duration::from_secs(seconds))
}

fn retry_after(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large is the maximum.
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(clock::unix()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_limited_to_what_the_library_can_represent() {
        let date = |secs: u64| {
            httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + clock::unix().unwrap() + Duration::from_secs(secs))
        };
        let limited = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            let limited = limit_retry_after(&mut headers).map(|limited| limited.as_secs());
            let written = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            assert_eq!(written, limited, "{text}");
            limited
        };
        let day = RETRY_AFTER_MAX.as_secs();
        for (text, expected) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 120 ", Some(120)),
            ("18446744073709551615", Some(day)),
            ("99999999999999999999999", Some(day)),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(day)),
        ] {
            assert_eq!(limited(text), expected, "{text:?}");
        }
        assert!(limited(&date(600)).is_some_and(|secs| (595..=600).contains(&secs)));
    }

    #[test]
    fn a_directory_has_urls_that_requests_can_be_sent_to() {
        let check = |status: u16, body: &str| {
            let body = Bytes::from(body.to_owned());
            check_directory(&Response::builder().status(status).body(body).unwrap())
        };
        let with = |nonce: &str| {
            format!(r#"{{"newNonce":"{nonce}","newAccount":"https://ca.example/a","newOrder":"https://ca.example/o"}}"#)
        };
        assert_eq!(check(200, &with("https://ca.example/n")), Ok(()));
        for url in ["https://ca.example/ n", "ca", "", "http://192.0.2.1/n", "file:///etc/passwd", "https://"] {
            assert_eq!(check(200, &with(url)), Err(TransportError::Url("`newNonce` of the directory")), "{url}");
        }
        for body in ["", "<html>", "{}", "[]", r#"{"newNonce":1}"#] {
            assert_eq!(check(200, body), Err(TransportError::Directory), "{body}");
        }
        assert_eq!(check(302, ""), Err(TransportError::Status(StatusCode::FOUND, String::new())));
    }
}
