//! An HTTP/1.1 client over TLS with limits on time and size. It follows no redirects and uses no proxy.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::policy::remote::{HttpUrl, Roots};
use crate::runtime::tasks::Tasks;

/// Timeout for the connection to each address of a server. The timeout of the request includes it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection stays open. It is shorter than the 60 s after which common servers close one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum size of the head of a response.
const HEAD_MAX_BYTES: usize = 32 * 1024;
/// The maximum number of header fields in a response.
const HEAD_MAX_HEADERS: usize = 128;

/// A client for servers whose certificates lead to the same roots. It reuses connections. Its first use ties it to the
/// runtime that polls it; it must not be used by another runtime then.
#[derive(Clone)]
pub struct HttpClient(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Timeout for the whole request: look-up of the name, connection, TLS handshake, response and its body.
    pub timeout: Duration,
    /// The maximum size of the response's body.
    pub body_max_bytes: usize,
}

/// Why a request has no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// No root certificate can be used.
    Roots(String),
    /// The name was not found, or no address of the server accepted a connection, or its certificate was rejected.
    Connect(String),
    /// The response is not HTTP, its head is too large, or the connection broke.
    Broken(String),
    /// The body of the response exceeds this size.
    TooLarge(usize),
    /// The response was not complete within this time.
    Timeout(Duration),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots(cause) => write!(f, "no root certificate can be used: {cause}"),
            Self::Connect(cause) => write!(f, "cannot connect: {cause}"),
            Self::Broken(cause) => write!(f, "no valid response: {cause}"),
            Self::TooLarge(max_bytes) => write!(f, "the response is larger than {max_bytes} bytes"),
            Self::Timeout(time) => write!(f, "no response within {time:?}"),
        }
    }
}

impl Error for ClientError {}

impl HttpClient {
    /// Creates a client that keeps at most `idle_max` unused connections to one server. With [`Roots::System`] it reads
    /// the files of the system's roots.
    ///
    /// # Errors
    /// If no root certificate can be used.
    pub fn new(roots: &Roots, idle_max: usize) -> Result<Self, ClientError> {
        let provider = Arc::new(default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Roots(error.to_string()))?
            .with_root_certificates(root_store(roots)?)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        // Which URLs may be plain is decided by `HttpUrl`.
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let client = Client::builder(ConnectionTasks(Tasks::default()))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(idle_max)
            .retry_canceled_requests(false)
            .http1_max_buf_size(HEAD_MAX_BYTES)
            .http1_max_headers(HEAD_MAX_HEADERS)
            .build(connector.enable_http1().wrap_connector(http));
        Ok(Self(client))
    }

    /// Sends a request without a body, and returns the whole response, whatever its status. The target of the request
    /// must be the absolute URL of an [`HttpUrl`]; `Host` is added if it is missing.
    ///
    /// # Errors
    /// If there is no response within the limits.
    pub async fn send(&self, request: Request<()>, limits: RequestLimits) -> Result<Response<Bytes>, ClientError> {
        let request = request.map(|()| Empty::new());
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| {
                let cause = causes(error.source().unwrap_or(&error));
                if error.is_connect() { ClientError::Connect(cause) } else { ClientError::Broken(cause) }
            })?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, limits.body_max_bytes).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    ClientError::TooLarge(limits.body_max_bytes)
                } else {
                    ClientError::Broken(causes(&*error))
                }
            })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        timeout(limits.timeout, exchange).await.unwrap_or(Err(ClientError::Timeout(limits.timeout)))
    }

    /// Sends a `GET` for a JSON document.
    ///
    /// # Errors
    /// If there is no response within the limits.
    pub async fn get(&self, url: &HttpUrl, limits: RequestLimits) -> Result<Response<Bytes>, ClientError> {
        let mut request = Request::new(());
        *request.uri_mut() = url.uri().clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Some servers reject requests without it.
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        self.send(request, limits).await
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

/// Spawns the tasks of connections on the runtime of the caller.
#[derive(Clone)]
struct ConnectionTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for ConnectionTasks {
    fn execute(&self, task: F) {
        self.0.start(task);
    }
}

fn root_store(roots: &Roots) -> Result<RootCertStore, ClientError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            // The system may have roots that this TLS library does not support.
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let cause = found.errors.first().map(ToString::to_string);
                return Err(ClientError::Roots(cause.unwrap_or_else(|| "the system has none".to_owned())));
            }
        }
        Roots::Certificates(certificates) => {
            for certificate in certificates.iter() {
                store.add(certificate.clone()).map_err(|error| ClientError::Roots(error.to_string()))?;
            }
        }
    }
    Ok(store)
}

/// Returns the messages of an error and of its causes, each once.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
