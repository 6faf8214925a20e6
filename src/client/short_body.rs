//! The body of a response whose status alone decides: it is passed on if it is short and arrives soon.

use std::future::Future;
use std::time::Duration;

use http::Response;
use http::response::Parts;
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;

/// The maximum size of such a body. A longer one is dropped entirely.
pub const BODY_MAX_BYTES: usize = 64 * 1024;
/// The maximum time that such a body may take after the head. One that takes longer is dropped entirely: a server may
/// send a body without a length and leave the connection open.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Headers that describe the body (RFC 9110 section 8, RFC 6266, RFC 9530). All others describe the response.
const ABOUT_BODY: [&str; 11] = [
    "content-length",
    "content-encoding",
    "content-type",
    "content-language",
    "content-location",
    "content-range",
    "content-disposition",
    "content-md5",
    "digest",
    "content-digest",
    "repr-digest",
];

/// Reads a whole body; `None` if it is longer than [`BODY_MAX_BYTES`] or incomplete.
pub async fn read(body: Incoming) -> Option<Bytes> {
    Limited::new(body, BODY_MAX_BYTES).collect().await.ok().map(Collected::to_bytes)
}

/// Returns the response with the body that `reading` returns within `limit`, else without a body and without the
/// headers that describe it.
pub async fn attach(mut head: Parts, reading: impl Future<Output = Option<Bytes>>, limit: Duration) -> Response<Bytes> {
    let body = timeout(limit, reading).await.ok().flatten().unwrap_or_else(|| {
        for name in ABOUT_BODY {
            head.headers.remove(name);
        }
        Bytes::new()
    });
    Response::from_parts(head, body)
}
