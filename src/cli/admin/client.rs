//! A client of the admin API.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::args::Connection;
use super::failure::{EXIT_CONFIG, Failure};
use crate::config::{AdminAddress, AdminClientConfig, admin_client};

/// How long an answer may take. A reload checks every session first.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer: a thousand sessions have some 2 MB.
const ANSWER_MAX_BYTES: usize = 16 << 20;
const TOKEN_MAX_BYTES: u64 = 4096;

/// A client of the admin API of one process.
pub struct Client {
    runtime: Runtime,
    target: Target,
    token: Option<HeaderValue>,
}

/// The address of a process.
#[derive(Debug)]
pub enum Target {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// A host and a port.
    Tcp(String),
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Client {
    /// Finds the address and the token. Nothing is connected yet.
    ///
    /// # Errors
    /// If the arguments or the configuration name no address, or the token cannot be read.
    pub fn new(arguments: &Connection) -> Result<Self, Failure> {
        let given = arguments.token_file.as_ref().map(read_token).transpose()?;
        let (target, token) = if let Some(address) = &arguments.admin {
            (Target::parse(address)?, given)
        } else {
            let client = configured(&arguments.file.config, given.is_none())?;
            (client.address.into(), given.or(client.token))
        };
        let token = token.as_deref().map(|token| bearer(token)).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        Ok(Self { runtime, target, token })
    }

    /// Makes a request, and returns the JSON of its answer; null if it has none.
    ///
    /// # Errors
    /// If the process cannot be reached, does not answer in time, or the answer is a problem.
    pub fn request(&self, method: Method, target: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.request_within(TIMEOUT, method, target, body)
    }

    /// Makes a request whose answer may take `timeout`, and returns the JSON of its answer; null if it has none.
    ///
    /// # Errors
    /// If the process cannot be reached, does not answer in time, or the answer is a problem.
    pub fn request_within(
        &self,
        timeout: Duration,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let request = self.build(method, target, body)?;
        let answering = self.exchange(request, |response| async move {
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
            let body = body.map_err(|error| Failure::new(format!("the answer cannot be read: {error}")))?;
            Ok((status, body.to_bytes()))
        });
        let (status, body) = self.runtime.block_on(async {
            let late = || Failure::new(format!("{} did not answer in {} s", self.target, timeout.as_secs()));
            tokio::time::timeout(timeout, answering).await.map_err(|_| late())?
        })?;
        let value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() { Ok(value) } else { Err(Failure::of_answer(status, &value)) }
    }

    /// Makes a request whose answer is a stream, and passes each part of it to `take` until the stream ends.
    ///
    /// # Errors
    /// If the process cannot be reached, the answer is a problem, or `take` fails.
    pub fn stream(&self, target: &str, mut take: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        let request = self.build(Method::GET, target, None)?;
        self.runtime.block_on(self.exchange(request, |response| async move {
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let problem = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
                let problem = problem.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                return Err(Failure::of_answer(status, &serde_json::from_slice(&problem).unwrap_or_default()));
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| Failure::new("the connection to the process was lost"))?;
                frame.data_ref().map_or(Ok(()), |data| take(data))?;
            }
            Ok(())
        }))
    }

    /// Waits.
    pub fn sleep(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    fn build(&self, method: Method, target: &str, body: Option<&Value>) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder().method(method).uri(target).header(HOST, "localhost");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        request.body(Full::from(body)).map_err(|error| Failure::of_arguments(error.to_string()))
    }

    /// Connects, sends a request, and returns what `read` makes of the answer.
    async fn exchange<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        request: Request<Full<Bytes>>,
        read: impl FnOnce(Response<Incoming>) -> F,
    ) -> Result<T, Failure> {
        let stream = self.target.connect().await.map_err(|error| self.target.failure(&error))?;
        let failed = |error| Failure::new(format!("{} does not answer as an admin API: {error}", self.target));
        let (mut sender, connection): (SendRequest<Full<Bytes>>, _) =
            handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let answering = async { read(sender.send_request(request).await.map_err(failed)?).await };
        let driving = async {
            // Its error reaches the request or the body, too.
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = answering => answer,
            () = driving => Err(Failure::new("the connection ended")),
        }
    }
}

/// Reads the address from the configuration, and the token if `with_token`.
fn configured(path: &Path, with_token: bool) -> Result<AdminClientConfig, Failure> {
    let fail = |message| Failure { code: EXIT_CONFIG, message };
    let client = admin_client(path, with_token)
        .map_err(|report| fail(format!("{report}(name the address with --admin, the token with --token-file)")))?;
    client.ok_or_else(|| fail(format!("{} has no [admin] section, so its process has no admin API", path.display())))
}

impl Target {
    /// Finds the address.
    ///
    /// # Errors
    /// If the arguments or the configuration name none.
    pub fn of(arguments: &Connection) -> Result<Self, Failure> {
        match &arguments.admin {
            Some(address) => Self::parse(address),
            None => configured(&arguments.file.config, false).map(|client| client.address.into()),
        }
    }

    /// Parses `unix:PATH` or `HOST:PORT`.
    ///
    /// # Errors
    /// If the text is neither.
    pub fn parse(address: &str) -> Result<Self, Failure> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let is_port = |(_, port): (&str, &str)| port.parse::<u16>().is_ok();
        if address.rsplit_once(':').is_some_and(is_port) {
            return Ok(Self::Tcp(address.to_owned()));
        }
        Err(Failure::of_arguments(format!("--admin {address}: expected unix:PATH or HOST:PORT")))
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        })
    }

    fn failure(&self, error: &io::Error) -> Failure {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ": no process serves this address",
            io::ErrorKind::PermissionDenied => ": this user may not connect; see `socket_group` in [admin]",
            _ => "",
        };
        Failure::new(format!("cannot connect to {self}{hint} ({error})"))
    }
}

impl From<AdminAddress> for Target {
    fn from(address: AdminAddress) -> Self {
        match address {
            AdminAddress::Unix(path) => Self::Unix(path),
            AdminAddress::Tcp(address) => Self::Tcp(address.to_string()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("target", &self.target.to_string()).finish_non_exhaustive()
    }
}

fn read_token(path: &PathBuf) -> Result<Zeroizing<Vec<u8>>, Failure> {
    use std::io::Read as _;
    let mut token = Zeroizing::new(Vec::new());
    let read = std::fs::File::open(path).and_then(|file| file.take(TOKEN_MAX_BYTES).read_to_end(&mut token));
    read.map_err(|error| Failure::of_arguments(format!("cannot read the token in {}: {error}", path.display())))?;
    Ok(Zeroizing::new(token.trim_ascii().to_vec()))
}

fn bearer(token: &[u8]) -> Result<HeaderValue, Failure> {
    let value = Zeroizing::new([b"Bearer ", token].concat());
    let mut value = HeaderValue::from_bytes(&value)
        .map_err(|_| Failure::of_arguments("the token contains a character that a header cannot have"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_path_or_a_host_and_a_port() {
        let shown = |address| Target::parse(address).map(|target| target.to_string()).map_err(|failure| failure.code);
        for address in ["unix:/run/tollgate/admin.sock", "unix:admin.sock", "127.0.0.1:9640", "localhost:1", "[::1]:9"]
        {
            assert_eq!(shown(address), Ok(address.to_owned()));
        }
        for address in ["", "localhost", "localhost:", "localhost:65536", "/run/admin.sock", "http://localhost"] {
            assert_eq!(shown(address), Err(64), "{address}");
        }
    }
}
