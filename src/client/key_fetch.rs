//! Fetches one key set: the set itself, or first the configuration of its issuer.

use std::fmt;
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::body::Bytes;
use serde::Deserialize;
use tokio::time::timeout;

use super::http_client::{ClientError, HttpClient, RequestLimits};
use crate::policy::key::{KeyError, KeySet};
use crate::policy::key_schedule::lifetime;
use crate::policy::live_keys::{KeyLocation, RemoteKeys};
use crate::policy::remote::{HttpUrl, UrlError};

/// Timeout for a whole fetch, with the configuration of the issuer.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum size of a response: as large as a key file may be. A set of five keys has a few kilobytes, or 20 with
/// certificates.
pub(super) const BODY_MAX_BYTES: usize = 1 << 20;
const LIMITS: RequestLimits = RequestLimits { timeout: FETCH_TIMEOUT, body_max_bytes: BODY_MAX_BYTES };
/// The number of unused connections that are kept. The two requests of a fetch follow each other.
const IDLE_MAX: usize = 1;

/// The result of a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// The keys.
    pub keys: KeySet,
    /// The response.
    pub body: Bytes,
    /// How long the response stays fresh, if it says so.
    pub lifetime: Option<Duration>,
}

/// Why a key set cannot be fetched. The text names the URL of the request that failed, without its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// There is no response.
    Request(HttpUrl, ClientError),
    /// The whole fetch took longer than [`FETCH_TIMEOUT`].
    Timeout,
    /// The status is not 200. Redirects are not followed.
    Status(HttpUrl, StatusCode),
    /// The body is not a usable JWK set.
    Keys(HttpUrl, KeyError),
    /// The configuration of the issuer is not a JSON object with the strings `issuer` and `jwks_uri` (OpenID Connect
    /// Discovery section 3).
    Configuration(HttpUrl),
    /// The configuration names another issuer (OpenID Connect Discovery section 4.3).
    Issuer(HttpUrl),
    /// Tollgate sends no requests to the `jwks_uri` of the configuration.
    JwksUri(HttpUrl, UrlError),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(url) = self.url() {
            write!(f, "{url}: ")?;
        }
        self.reason().fmt(f)
    }
}

impl FetchError {
    /// Returns the URL of the request that failed, if it was one.
    pub fn url(&self) -> Option<&HttpUrl> {
        match self {
            Self::Timeout => None,
            Self::Request(url, _)
            | Self::Status(url, _)
            | Self::Keys(url, _)
            | Self::Configuration(url)
            | Self::Issuer(url)
            | Self::JwksUri(url, _) => Some(url),
        }
    }

    /// Returns the text without the URL.
    pub fn reason(&self) -> Reason<'_> {
        Reason(self)
    }
}

/// The text of an error without its URL.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a>(&'a FetchError);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            FetchError::Request(_, error) => error.fmt(f),
            FetchError::Timeout => write!(f, "no key set within {FETCH_TIMEOUT:?}"),
            FetchError::Status(_, status) if status.is_redirection() => {
                write!(f, "the answer is a redirect ({}), which is not followed", status.as_u16())
            }
            FetchError::Status(_, status) => write!(f, "the status is {} instead of 200", status.as_u16()),
            FetchError::Keys(_, KeyError::Empty) => f.write_str("the response is empty"),
            FetchError::Keys(_, error) => write!(f, "the key set cannot be used: {error}"),
            FetchError::Configuration(_) => {
                f.write_str("not an OpenID configuration: a JSON object with `issuer` and `jwks_uri`")
            }
            FetchError::Issuer(_) => f.write_str("the configuration is that of another issuer"),
            FetchError::JwksUri(_, error) => write!(f, "its jwks_uri cannot be used: {error}"),
        }
    }
}

impl std::error::Error for FetchError {}

/// The part of an OpenID configuration that is read.
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

/// Returns a client for the fetches of one set.
pub fn client(remote: &RemoteKeys) -> HttpClient {
    HttpClient::new(&remote.roots, IDLE_MAX)
}

/// Fetches a key set.
///
/// # Errors
/// If a request has no response within the limits, or a response cannot be used.
pub async fn fetch(client: &HttpClient, remote: &RemoteKeys) -> Result<Fetched, FetchError> {
    let fetching = async {
        let url = match &remote.location {
            KeyLocation::Jwks(url) => url.clone(),
            KeyLocation::Discovery { issuer, document } => discover(client, issuer, document).await?,
        };
        let response = get(client, &url).await?;
        let lifetime = lifetime(response.headers());
        let keys = KeySet::from_server(response.body()).map_err(|error| FetchError::Keys(url, error))?;
        Ok(Fetched { keys, body: response.into_body(), lifetime })
    };
    timeout(FETCH_TIMEOUT, fetching).await.unwrap_or(Err(FetchError::Timeout))
}

/// Returns the address of an issuer's key set.
async fn discover(client: &HttpClient, issuer: &str, document: &HttpUrl) -> Result<HttpUrl, FetchError> {
    let response = get(client, document).await?;
    let Ok(configuration) = serde_json::from_slice::<Configuration>(response.body()) else {
        return Err(FetchError::Configuration(document.clone()));
    };
    // The values must be identical: no normalisation.
    if configuration.issuer != issuer {
        return Err(FetchError::Issuer(document.clone()));
    }
    let unusable = |error| FetchError::JwksUri(document.clone(), error);
    let url = HttpUrl::parse(&configuration.jwks_uri).map_err(unusable)?;
    if may_name(document, &url) { Ok(url) } else { Err(unusable(UrlError::Insecure)) }
}

/// Whether a configuration may name this set. One from another machine must not make this machine send requests to its
/// own services.
fn may_name(document: &HttpUrl, url: &HttpUrl) -> bool {
    url.is_https() || document.is_loopback()
}

async fn get(client: &HttpClient, url: &HttpUrl) -> Result<Response<Bytes>, FetchError> {
    let response = client.get(url, LIMITS).await.map_err(|error| FetchError::Request(url.clone(), error))?;
    match response.status() {
        StatusCode::OK => Ok(response),
        status => Err(FetchError::Status(url.clone(), status)),
    }
}

#[cfg(test)]
mod tests;
