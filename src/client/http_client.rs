//! An HTTP/1.1 client over TLS with limits on time and size. It follows no redirects and uses no proxy.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{ACCEPT, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, Error as PoolError};
use hyper_util::rt::TokioTimer;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::connector::{Connector, Mark};
use super::resolver::Resolver;
use super::roots;
use crate::policy::remote::{HttpUrl, Roots};
use crate::runtime::tasks::Tasks;

/// How long an unused connection stays open. It is shorter than the 5 s after which common servers close one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// The maximum size of the head of a response.
const HEAD_MAX_BYTES: usize = 32 * 1024;
/// The maximum number of header fields in a response.
const HEAD_MAX_HEADERS: usize = 128;
/// The maximum size of a body that is read only to use its connection again. A new connection costs less than more.
const DRAIN_MAX_BYTES: usize = 16 * 1024;
/// Timeout for such a body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum number of such bodies at once.
const DRAINS_MAX: usize = 32;

type Pool = Client<HttpsConnector<Connector>, Full<Bytes>>;

/// A client for servers whose certificates lead to the same roots. It reuses connections. Its first use ties it to the
/// runtime that polls it; it must not be used by another runtime then. Roots are needed, and those of the system read,
/// by the first request to an `https` URL.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    roots: Roots,
    idle_max: usize,
    connector: Connector,
    plain: OnceLock<Pools>,
    tls: OnceLock<Pools>,
    drains: Arc<Semaphore>,
    tasks: ConnectionTasks,
}

/// The connections of one scheme.
struct Pools {
    reusing: Pool,
    /// Opens a connection for each request.
    fresh: Pool,
}

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
    /// Creates a client that keeps at most `idle_max` unused connections to one server.
    pub fn new(roots: &Roots, idle_max: usize) -> Self {
        Self::with_resolver(roots, idle_max, Resolver::default())
    }

    /// Creates a client that shares the look-ups of others.
    pub(super) fn with_resolver(roots: &Roots, idle_max: usize, resolver: Resolver) -> Self {
        Self(Arc::new(Inner {
            roots: roots.clone(),
            idle_max,
            connector: Connector::new(resolver),
            plain: OnceLock::new(),
            tls: OnceLock::new(),
            drains: Arc::new(Semaphore::new(DRAINS_MAX)),
            tasks: ConnectionTasks(Tasks::default()),
        }))
    }

    /// Sends a request without a body, and returns the whole response, whatever its status. The target of the request
    /// must be the absolute URL of an [`HttpUrl`]; `Host` is added if it is missing.
    ///
    /// # Errors
    /// If there is no response within the limits.
    pub async fn send(&self, request: Request<()>, limits: RequestLimits) -> Result<Response<Bytes>, ClientError> {
        self.send_body(request.map(|()| Bytes::new()), limits).await
    }

    /// Sends a request as [`HttpClient::send`], with a body. It may be sent twice, so the server must be able to tell.
    ///
    /// # Errors
    /// If there is no response within the limits.
    pub async fn send_body(
        &self,
        request: Request<Bytes>,
        limits: RequestLimits,
    ) -> Result<Response<Bytes>, ClientError> {
        let exchange = async {
            let (head, body) = self.exchange(request).await?.into_parts();
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

    /// Sends a request as [`HttpClient::send`], and returns the response when its head has arrived.
    ///
    /// # Errors
    /// If there is no head within `limit`.
    pub async fn head(&self, request: Request<()>, limit: Duration) -> Result<Response<Incoming>, ClientError> {
        let request = request.map(|()| Bytes::new());
        timeout(limit, self.exchange(request)).await.unwrap_or(Err(ClientError::Timeout(limit)))
    }

    /// Drops a body. A short one is read first, in a task, so that its connection can be used again.
    pub fn drain(&self, body: Incoming) {
        if body.is_end_stream() {
            return;
        }
        let Ok(place) = Arc::clone(&self.0.drains).try_acquire_owned() else { return };
        self.0.tasks.0.start(async move {
            // In every case the body is dropped.
            let _ = timeout(DRAIN_TIMEOUT, Limited::new(body, DRAIN_MAX_BYTES).collect()).await;
            drop(place);
        });
    }

    /// Sends a request once more on a connection of its own if a connection that has carried a response before broke.
    /// The server has probably closed it at the same time. A request has no body or effect, or the server recognises it.
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Incoming>, ClientError> {
        let pools = self.0.pools(request.uri().scheme() == Some(&Scheme::HTTPS)).await?;
        let request = request.map(Full::new);
        let response = match pools.reusing.request(request.clone()).await {
            Err(error) if is_stale(&error) => pools.fresh.request(request).await,
            result => result,
        };
        let response = response.map_err(|error| {
            let cause = causes(error.source().unwrap_or(&error));
            if error.is_connect() { ClientError::Connect(cause) } else { ClientError::Broken(cause) }
        })?;
        Mark::note(response.extensions());
        Ok(response)
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

impl Inner {
    async fn pools(&self, is_https: bool) -> Result<&Pools, ClientError> {
        let pools = if is_https { &self.tls } else { &self.plain };
        if let Some(pools) = pools.get() {
            return Ok(pools);
        }
        let roots = if is_https {
            roots::store(&self.roots).await.map_err(ClientError::Roots)?
        } else {
            Arc::new(RootCertStore::empty())
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Roots(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let new = Pools { reusing: self.pool(&tls, self.idle_max), fresh: self.pool(&tls, 0) };
        Ok(pools.get_or_init(|| new))
    }

    fn pool(&self, tls: &ClientConfig, idle_max: usize) -> Pool {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_http1();
        Client::builder(self.tasks.clone())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(idle_max)
            .http1_max_buf_size(HEAD_MAX_BYTES)
            .http1_max_headers(HEAD_MAX_HEADERS)
            .build(connector.wrap_connector(self.connector.clone()))
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

/// Whether a connection that has carried a response before broke without another one.
fn is_stale(error: &PoolError) -> bool {
    let is_malformed = error.source().and_then(|cause| cause.downcast_ref()).is_some_and(hyper::Error::is_parse);
    !is_malformed && error.connect_info().is_some_and(Mark::is_set)
}

/// Returns the messages of an error and of its causes, each once.
pub fn causes(error: &dyn Error) -> String {
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
