//! Forwards an ordinary request to one of an upstream's servers: over a connection that was used before, or a new one.

use std::io;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::connector::{AskError, Asked, Connector, Exchange, Failed};
use super::http_connection::HttpConnection;
use super::http_pool::HttpPool;
use super::open::OpenError;
use super::request_body::{BodyProgress, RequestBody};
use super::response_body::{Home, ResponseBody};
use crate::balance::{Failure, PendingRequest, Pool, Server};
use crate::client::http_client::causes;
use crate::policy::framing;
use crate::policy::rejection::Rejection;
use crate::policy::request::RequestFacts;
use crate::policy::request_admission::RequestAdmission;

/// A request to forward.
#[derive(Debug)]
pub struct OutgoingRequest<'a> {
    /// The PROXY header that precedes it; empty: none.
    pub proxy_header: &'a [u8],
    /// Its head.
    pub head: Request<()>,
    /// Its body.
    pub body: RequestBody,
    /// The progress of its body.
    pub progress: &'a BodyProgress,
}

impl Connector {
    /// Sends a request to a server of the pool that it was admitted for, and returns the response when its head has
    /// arrived. The request counts as a session of the server, and may wait for one, as with [`Connector::ask`].
    ///
    /// Only a request with an idempotent method and without a body is sent again: to another server if one accepts no
    /// connection, and over a new connection if the server closes one that was used before without a byte of a response
    /// (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
    ///
    /// # Errors
    /// As with [`Connector::ask`], or if the body does not arrive as a whole.
    pub async fn forward(
        &self,
        admission: &RequestAdmission,
        facts: &RequestFacts<'_>,
        connections: &Arc<HttpPool>,
        request: OutgoingRequest<'_>,
    ) -> Result<Asked<Response<ResponseBody>>, AskError> {
        let is_repeatable = request.body.is_none() && is_idempotent(request.head.method());
        let exchange = HttpExchange { connections, request, is_repeatable };
        self.ask_one_of(admission.pool(), (facts, admission.grant()), exchange).await
    }
}

/// Whether a request may be repeated (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    method.is_safe() || *method == Method::PUT || *method == Method::DELETE
}

struct HttpExchange<'a> {
    connections: &'a Arc<HttpPool>,
    request: OutgoingRequest<'a>,
    is_repeatable: bool,
}

impl Exchange for HttpExchange<'_> {
    type Response = Response<ResponseBody>;
    const IS_PACED: bool = false;

    async fn attempt(
        &mut self,
        connector: &Connector,
        pool: &Arc<Pool>,
        server: &Server,
        pending: PendingRequest,
    ) -> Result<Response<ResponseBody>, Failed> {
        let config = pool.config();
        // A PROXY header names the client of one connection.
        let used = if config.proxy_protocol { None } else { self.connections.take(pool, server.name()) };
        let since_ms = connector.now_ms(pool);
        let mut pending = Some(pending);
        if let Some(connection) = used {
            // The response may take long: a long poll must not take the place of an upgrade.
            pending = None;
            match self.exchange(connector, pool, server, connection).await {
                // The server has probably closed it at the same time.
                Err(OpenError::Broken(_)) if self.is_repeatable => {}
                Err(OpenError::Broken(error)) if self.request.progress.fault().is_none() => {
                    return Err(Failed::Finally(error_at(server, Rejection::Unreachable, causes(&error))));
                }
                result => return result.map_err(|error| self.fail(connector, (pool, server), since_ms, error)),
            }
        }
        let stream = connector.try_server(pool, server, self.request.proxy_header).await;
        let mut stream = stream
            .map_err(|error| if self.is_repeatable { Failed::AtThisServer(error) } else { Failed::Finally(error) })?;
        let is_headed = stream.is_tls() || self.request.proxy_header.is_empty();
        let opening = async {
            if !is_headed {
                stream.write_all(self.request.proxy_header).await.map_err(OpenError::Broken)?;
            }
            HttpConnection::new(stream, config.title_case_headers).await
        };
        let opened = timeout(config.connect_timeout, opening).await.unwrap_or(Err(OpenError::Timeout));
        drop(pending);
        let connection = opened.map_err(|error| self.fail(connector, (pool, server), since_ms, error))?;
        let since_ms = connector.now_ms(pool);
        let result = self.exchange(connector, pool, server, connection).await;
        result.map_err(|error| self.fail(connector, (pool, server), since_ms, error))
    }
}

impl HttpExchange<'_> {
    async fn exchange(
        &mut self,
        connector: &Connector,
        pool: &Arc<Pool>,
        server: &Server,
        mut connection: HttpConnection,
    ) -> Result<Response<ResponseBody>, OpenError> {
        let config = pool.config();
        let mut request = Request::new(std::mem::take(&mut self.request.body));
        *request.method_mut() = self.request.head.method().clone();
        *request.uri_mut() = self.request.head.uri().clone();
        *request.headers_mut() = self.request.head.headers().clone();
        let exchanged = connection.exchange(request, config.http_response_timeout, self.request.progress).await;
        // The server has got the request.
        self.is_repeatable &= !connection.has_received();
        let response = exchanged?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(OpenError::Broken(io::Error::other("a 101 that was not asked for")));
        }
        let has_no_body = *self.request.head.method() == Method::HEAD
            || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !has_no_body {
            framing::check_response(response.headers()).map_err(|error| {
                let rule = error.label();
                OpenError::Malformed(format!("the framing of the response is not accepted: {rule}"))
            })?;
        }
        // A server that wrongly sends the body that it announces would answer the next request with it.
        let may_be_followed = !has_no_body || !announces_body(response.headers());
        let may_stay = !config.proxy_protocol && may_be_followed;
        let home = may_stay.then(|| Home {
            connections: Arc::clone(self.connections),
            pool: Arc::clone(pool),
            server: Arc::clone(server.name()),
        });
        let mut response = response.map(|body| ResponseBody::new(body, connection, home));
        response.body_mut().begin()?;
        if is_failure(response.status()) {
            connector.note_status(pool, server, response.status());
        } else {
            connector.note_success(pool, server);
        }
        Ok(response)
    }

    /// Records a failure of the server, unless the client caused it.
    fn fail(&self, connector: &Connector, (pool, server): (&Pool, &Server), since_ms: u64, error: OpenError) -> Failed {
        if let Some(fault) = self.request.progress.fault() {
            return Failed::Finally(error_at(server, fault.rejection(), String::new()));
        }
        let (failure, rejection, detail) = match error {
            OpenError::Timeout => {
                (Failure::Late { since_ms }, Rejection::UpstreamTimeout, "no response in time".to_owned())
            }
            OpenError::Malformed(error) => (Failure::Answer, Rejection::UpstreamMalformed, error),
            OpenError::Broken(error) => (Failure::Answer, Rejection::Unreachable, causes(&error)),
        };
        connector.note_failure(pool, server, failure, &detail);
        Failed::Finally(error_at(server, rejection, detail))
    }
}

/// Whether a response counts as a failure of its server: only a status that a gateway or an overloaded server sends. A
/// client, which chooses the method, the path and the body, can provoke the others.
fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Whether a head that permits no body has the length of one.
fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0")
}

fn error_at(server: &Server, rejection: Rejection, detail: String) -> AskError {
    AskError { server: Some(Arc::clone(server.name())), detail, ..AskError::from(rejection) }
}
