//! Checks one server of an upstream: a connection, an HTTP request, or a WebSocket that answers a ping.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Bytes;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::connector::Connector;
use super::open::{OpenError, UpstreamResponse, open};
use super::pong::{Found, PongSearch};
use super::server_connector::is_local;
use crate::balance::{Check, CheckChange, CheckConfig, Pool, Server, ServerAddress};
use crate::policy::endpoints::proxy_header;
use crate::runtime::entropy::random;
use crate::ws::code::CloseCode;
use crate::ws::frame::ControlFrame;
use crate::ws::handshake::{self, Answer};

/// The maximum number of bytes that a server sends before its pong. It may greet each client with messages.
const READ_MAX_BYTES: usize = 1024 * 1024;
/// The time that a server has to answer the Close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The size of one read.
const READ_BYTES: usize = 4096;

/// Why a check did not pass.
#[derive(Debug)]
pub enum CheckError {
    /// The server failed, for this reason.
    Failed(Cow<'static, str>),
    /// This machine failed, for example by too few descriptors. It says nothing about the server.
    Local(io::Error),
}

impl From<io::Error> for CheckError {
    fn from(error: io::Error) -> Self {
        if is_local(&error) { Self::Local(error) } else { Self::Failed(error.to_string().into()) }
    }
}

impl Connector {
    /// Checks a server, in at most the interval of the checks, and in the time that a request has for its connection and
    /// its answer. An HTTP request has this `Host`.
    ///
    /// # Errors
    /// If the check does not pass.
    pub async fn check(
        &self,
        pool: &Pool,
        server: &Server,
        config: &CheckConfig,
        host: HeaderValue,
    ) -> Result<(), CheckError> {
        let checking = async {
            match &config.check {
                Check::Tcp => self.check_connection(pool, server, config).await,
                Check::Http(path) => self.check_status(pool, server, config, http_request(path, host)).await,
                Check::WebSocket(path) => self.check_websocket(pool, server, config, (path, host)).await,
            }
        };
        let of_request = pool.config().connect_timeout.saturating_add(pool.config().response_timeout);
        let check_timeout = config.interval.min(of_request);
        let no_answer = |_| CheckError::Failed(format!("no answer within {check_timeout:?}").into());
        timeout(check_timeout, checking).await.map_err(no_answer)?
    }

    /// Records a check of a server, and logs the change that it causes, if the quota of lines allows it.
    pub fn note_check(&self, pool: &Pool, server: &Server, checked: &Result<(), CheckError>) {
        let (upstream, name) = (&pool.config().name, server.name());
        let failure = match checked {
            Ok(()) => None,
            Err(CheckError::Failed(reason)) => Some(&**reason),
            Err(CheckError::Local(error)) => {
                tracing::debug!(%upstream, server = %name, %error, "server not checked, because of this machine");
                return;
            }
        };
        match pool.checked(server, failure, self.now_ms(pool)) {
            Some(_) if !self.may_log(pool) => {}
            Some(CheckChange::Down { checks }) => {
                let reason = failure.unwrap_or_default();
                tracing::warn!(%upstream, server = %name, reason, checks, "server down");
            }
            Some(CheckChange::Up { checks }) => {
                tracing::warn!(%upstream, server = %name, reason = "its checks pass", checks, "server up");
            }
            None => {}
        }
    }

    async fn check_connection(&self, pool: &Pool, server: &Server, config: &CheckConfig) -> Result<(), CheckError> {
        let connect_timeout = pool.config().connect_timeout.min(config.interval);
        match server.address() {
            ServerAddress::Tcp { host, port } if let Ok(ip) = host.parse::<IpAddr>() => {
                let connected = timeout(connect_timeout, connect_quietly(SocketAddr::new(ip, *port))).await;
                connected.map_err(|_| CheckError::Failed("connecting timed out".into()))??;
            }
            _ => drop(self.servers().open_socket(server, connect_timeout).await?),
        }
        Ok(())
    }

    async fn check_status(
        &self,
        pool: &Pool,
        server: &Server,
        config: &CheckConfig,
        request: Request<Empty<Bytes>>,
    ) -> Result<(), CheckError> {
        let status = match self.ask_check(pool, server, config, request).await? {
            UpstreamResponse::NotSwitched(response) => response.status(),
            UpstreamResponse::Switched { .. } => StatusCode::SWITCHING_PROTOCOLS,
        };
        let passes = status.is_success() || status.is_redirection();
        if passes { Ok(()) } else { Err(CheckError::Failed(format!("status {}", status.as_u16()).into())) }
    }

    async fn check_websocket(
        &self,
        pool: &Pool,
        server: &Server,
        config: &CheckConfig,
        (path, host): (&PathAndQuery, HeaderValue),
    ) -> Result<(), CheckError> {
        let key = handshake::key(random());
        let (head, mut stream, read_ahead) =
            match self.ask_check(pool, server, config, opening_request(path, host, &key)).await? {
                UpstreamResponse::Switched { head, stream, read_ahead } => (head, stream, read_ahead),
                UpstreamResponse::NotSwitched(response) => {
                    return Err(CheckError::Failed(format!("status {}", response.status().as_u16()).into()));
                }
            };
        Answer::parse(head.status(), head.version(), head.headers(), &key, &[], &[])
            .map_err(|error| CheckError::Failed(format!("a bad 101: {}", error.label()).into()))?;
        ping(&mut stream, &read_ahead).await
    }

    /// Sends a request, after a PROXY header without a client if the upstream has `proxy_protocol`, and returns the
    /// response. Its body is not used.
    async fn ask_check(
        &self,
        pool: &Pool,
        server: &Server,
        config: &CheckConfig,
        request: Request<Empty<Bytes>>,
    ) -> Result<UpstreamResponse, CheckError> {
        let connect_timeout = pool.config().connect_timeout.min(config.interval);
        let header = if pool.config().proxy_protocol { proxy_header(None) } else { Vec::new() };
        let stream = self.servers().connect(pool.config(), server, &header, connect_timeout).await?;
        // With TLS the header was sent before the handshake.
        let header: &[u8] = if stream.is_tls() { &[] } else { &header };
        let opened =
            open(stream, header, request, pool.config().response_timeout, pool.config().title_case_headers).await;
        opened.map_err(|error| match error {
            OpenError::Timeout => CheckError::Failed("no response in time".into()),
            OpenError::Malformed(error) => CheckError::Failed(error.into()),
            OpenError::Broken(error) => error.into(),
        })
    }
}

/// Connects, and resets the connection. The acknowledgement that completes the connection is delayed, so that the reset
/// replaces it: the kernel of the server drops the connection before the server accepts it. So a check costs the server
/// nothing, and is not in its log.
async fn connect_quietly(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    sockopt::set_tcp_quickack(&socket, false)?;
    socket.set_zero_linger()?;
    socket.connect(address).await.map(drop)
}

fn http_request(path: &PathAndQuery, host: HeaderValue) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from(path.clone());
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    request
}

/// Returns the request of an opening handshake (RFC 6455 section 4.1), without subprotocols and extensions.
fn opening_request(path: &PathAndQuery, host: HeaderValue, key: &str) -> Request<Empty<Bytes>> {
    let mut request = http_request(path, host);
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.extend(HeaderValue::from_str(key).map(|key| (SEC_WEBSOCKET_KEY, key)));
    request
}

/// Sends a ping, waits for its pong, and closes the WebSocket.
async fn ping(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), read_ahead: &[u8]) -> Result<(), CheckError> {
    let payload = random();
    let mut search = PongSearch::new(payload);
    send(stream, &ControlFrame::ping(payload)).await?;
    match find(&mut search, stream, read_ahead).await? {
        Found::Pong => {}
        Found::Close => return Err(CheckError::Failed("a Close instead of a pong".into())),
    }
    // The server has answered. Whether it also answers the Close in time does not matter.
    if send(stream, &ControlFrame::close(CloseCode::NORMAL, "")).await.is_ok() {
        let closing = find(&mut search, stream, &[]);
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
    Ok(())
}

/// Reads up to a frame that is looked for.
async fn find(
    search: &mut PongSearch,
    stream: &mut (impl AsyncRead + Unpin),
    read_ahead: &[u8],
) -> Result<Found, CheckError> {
    let (mut buffer, mut read) = ([0; READ_BYTES], read_ahead.len());
    let mut bytes = read_ahead;
    loop {
        let found = search.receive(&mut bytes);
        let found =
            found.map_err(|violation| CheckError::Failed(format!("a bad frame: {}", violation.label()).into()))?;
        if let Some(found) = found {
            return Ok(found);
        }
        if read > READ_MAX_BYTES {
            return Err(CheckError::Failed("no pong among the first bytes".into()));
        }
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(CheckError::Failed("disconnected instead of a pong".into()));
        }
        read = read.saturating_add(len);
        bytes = buffer.get(..len).unwrap_or_default();
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), frame: &ControlFrame) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame.encode(Some(random()), &mut bytes);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use super::*;

    /// A check of the connection succeeds without a connection at the server. The kernel sends the acknowledgement after
    /// 200 ms, so on a busy machine one of several attempts must do.
    #[test]
    fn a_quiet_connection_is_not_accepted_by_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let is_unseen = || {
            runtime.block_on(connect_quietly(address)).unwrap();
            listener.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        };
        assert!((0..5).any(|_| is_unseen()));
        drop(listener);
        let refused = runtime.block_on(connect_quietly(address)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}
