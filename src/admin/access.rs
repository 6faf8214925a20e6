//! Admits or rejects a request by its token, `Host` and `Origin`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode};

use super::problem::{Problem, Result};
use crate::config::{AdminConfig, AdminToken};

/// Paths that need no token: they have no data.
const OPEN_PATHS: [&str; 3] = ["/", "/healthz", "/readyz"];
/// The number of lines in the log about wrong tokens at once; one more each second. Tokens have at least 16 bytes, so
/// guesses need no limit of their own, which would also reject the operator's tools.
const FAILURE_LINES: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A process with this user, on the Unix socket. `None`: the kernel did not report it.
    Unix(Option<u32>),
    /// A TCP client of the socket that is bound to `local`.
    Tcp {
        /// The address of the client.
        client: SocketAddr,
        /// The address of the socket.
        local: SocketAddr,
    },
}

/// The rights of the client of an admitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Everything.
    All,
    /// Read, except payloads.
    Read,
}

/// The client of an admitted request, as audit lines show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    peer: Peer,
    /// Its rights.
    pub(super) rights: Rights,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Peer::Unix(Some(uid)) => write!(f, "uid {uid}"),
            Peer::Unix(None) => f.write_str("unix socket"),
            Peer::Tcp { client, .. } => write!(f, "token from {client}"),
        }
    }
}

/// The rules of access.
#[derive(Debug)]
pub(super) struct Access {
    token: Option<AdminToken>,
    read_token: Option<AdminToken>,
    failure_lines: DefaultDirectRateLimiter,
}

impl Access {
    /// Takes the tokens from the configuration.
    pub(super) fn new(config: &AdminConfig) -> Self {
        Self {
            token: config.token.clone(),
            read_token: config.read_token.clone(),
            failure_lines: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN).allow_burst(FAILURE_LINES)),
        }
    }

    /// Admits a request, or returns the reason for its rejection. A Unix socket admits by its mode, and needs no token.
    ///
    /// # Errors
    /// 403 if a browser's page of another origin may have sent it, or the token may only read; 401 without a valid
    /// token.
    pub(super) fn admit(&self, peer: Peer, request: &Parts) -> Result<Caller> {
        let host = host(request)?;
        let is_own = |host: &Authority| match peer {
            Peer::Tcp { local, .. } => is_own_host(host, Some(local)),
            // Programs send any name without a dot. A browser that reaches the socket through a forwarded port sends the
            // port, too, and a page may have a name that leads there.
            Peer::Unix(_) => is_own_host(host, None) || !host.as_str().contains(['.', ':']),
        };
        let may_lack_host = matches!(peer, Peer::Unix(_));
        if !host.as_ref().map_or(may_lack_host, is_own) {
            let detail = "the host is neither the address of the admin API nor localhost";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        check_origin(&request.headers, host.as_ref())?;
        let rights = match peer {
            Peer::Tcp { client, .. } if !OPEN_PATHS.contains(&request.uri.path()) => {
                self.check_token(request, client)?
            }
            Peer::Tcp { .. } => Rights::Read,
            Peer::Unix(_) => Rights::All,
        };
        Ok(Caller { peer, rights })
    }

    fn check_token(&self, request: &Parts, client: SocketAddr) -> Result<Rights> {
        let token = bearer(&request.headers).unwrap_or_default();
        let matches = |own: &Option<AdminToken>| own.as_ref().is_some_and(|own| own.matches(token));
        if matches(&self.token) {
            return Ok(Rights::All);
        }
        if matches(&self.read_token) {
            if matches!(request.method, Method::GET | Method::HEAD) {
                return Ok(Rights::Read);
            }
            return Err(Problem::new(StatusCode::FORBIDDEN, "this token may only read"));
        }
        // A browser asks without a token first, to learn whether it needs one.
        if request.headers.contains_key(AUTHORIZATION) && self.failure_lines.check().is_ok() {
            tracing::warn!(who = %client, "admin request without a valid token");
        }
        Err(Problem::new(StatusCode::UNAUTHORIZED, "a valid token is needed: Authorization: Bearer TOKEN"))
    }
}

/// Returns the token of an `Authorization: Bearer` header (RFC 6750 section 2.1). The scheme ignores case.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Returns the host of a request. That of an absolute target replaces the header (RFC 9112 section 3.2.2), but a client
/// has no reason to send two different ones.
fn host(request: &Parts) -> Result<Option<Authority>> {
    let malformed = || Problem::bad_request("the request needs one valid Host");
    let mut headers = request.headers.get_all(HOST).iter();
    let host = headers.next().map(|host| Authority::try_from(host.as_bytes()).map_err(|_| malformed())).transpose()?;
    let target = request.uri.authority();
    let differs = target.is_some_and(|target| host.as_ref().is_some_and(|host| host != target));
    if headers.next().is_some() || differs || host.as_ref().is_some_and(|host| host.as_str().contains('@')) {
        return Err(malformed());
    }
    Ok(host.or_else(|| target.cloned()))
}

/// Whether a host names this machine: the bound address, a loopback address or `localhost`, with any port. A page that
/// reaches the socket by DNS rebinding has a host name of its own here.
fn is_own_host(host: &Authority, local: Option<SocketAddr>) -> bool {
    let name = host.host();
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match literal.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback() || local.is_some_and(|local| address == local.ip()),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// Rejects a request that a page of another origin sent. A request without `Origin` is not such a request, or one that
/// changes nothing and whose answer the page cannot read.
fn check_origin(headers: &HeaderMap, host: Option<&Authority>) -> Result<()> {
    let own = host.map(|host| format!("http://{host}"));
    let is_own = |origin: &[u8]| own.as_ref().is_some_and(|own| own.as_bytes().eq_ignore_ascii_case(origin));
    if headers.get_all(ORIGIN).iter().all(|origin| is_own(origin.as_bytes())) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "pages of other origins may not use the admin API"))
}

#[cfg(test)]
mod tests;
