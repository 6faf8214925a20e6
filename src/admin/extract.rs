//! Reads queries and JSON bodies of requests. An error becomes a problem that describes it.

use std::time::Duration;

use axum::body::HttpBody as _;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use super::problem::Problem;

/// The largest message that may be sent to sessions.
pub(super) const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// The largest body: a message of which JSON escapes each byte in six, and the filter beside it.
const BODY_MAX_BYTES: usize = MESSAGE_MAX_BYTES * 6 + 16 * 1024;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The query of a request.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

/// The JSON body of a request.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Box<Problem>;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let query = axum::extract::Query::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|error| Problem::bad_request(error.body_text()))
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Box<Problem>;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        check_type(request.headers())?;
        let too_large = || {
            let detail = format!("a body may have at most {BODY_MAX_BYTES} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        };
        if declared_length(request.headers()).is_some_and(|length| length > BODY_MAX_BYTES as u64) {
            return Err(too_large());
        }
        let reading = Limited::new(request.into_body(), BODY_MAX_BYTES).collect();
        let body = match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
            Ok(Err(error)) => return Err(Problem::bad_request(format!("the body cannot be read: {error}"))),
            Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        };
        let content = serde_json::from_slice(&body);
        content.map(Self).map_err(|error| Problem::bad_request(format!("the body is not valid: {error}")))
    }
}

impl<T: DeserializeOwned, S: Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = Box<Problem>;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Self::Rejection> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

/// Requires JSON: a page of another origin cannot send this type without asking by a preflight request.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Box<Problem>> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "the body has to be JSON: Content-Type: application/json";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// Reads an integer from 0 to 65535, which JSON may write as `1000.0`.
pub(super) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let Some(number) = Option::<f64>::deserialize(deserializer)? else { return Ok(None) };
    let is_integer = number.fract() == 0.0 && (0.0..=f64::from(u16::MAX)).contains(&number);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    is_integer.then_some(Some(number as u16)).ok_or_else(|| Error::custom("expected an integer from 0 to 65535"))
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
