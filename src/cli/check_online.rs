//! `tollgate check --online`: fetches every key set, asks every authentication service once, fetches the directory of
//! every certificate authority (without an order), runs the commands of a node at the server of the cluster, looks up the servers of
//! upstreams, and does a TLS handshake with every server of an upstream with `tls`.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use jsonwebtoken::Algorithm;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::balance::{Pool, Server};
use crate::client::acme::order::check_directory;
use crate::client::forward::is_rejection;
use crate::client::key_fetch::{client, fetch};
use crate::client::{ClientError, HttpClient};
use crate::cluster;
use crate::config::{AuthConfig, Config};
use crate::front::question;
use crate::policy::endpoints::proxy_header;
use crate::policy::forward::{ForwardConfig, Question};
use crate::policy::forwarded::{Client, Scheme};
use crate::policy::host::HostPattern;
use crate::policy::live_keys::{KeySource, RemoteKeys};
use crate::policy::request::RequestFacts;
use crate::runtime::clock;
use crate::upstream::discovery::find_servers;
use crate::upstream::server_connector::ServerConnector;

/// The time in which a server is expected to reject the client certificate. In TLS 1.3 that follows the handshake.
const ALERT_TIMEOUT: Duration = Duration::from_millis(500);

/// Fetches the key set of every `[auth]` section that a route uses, or asks its service, looks up the servers of every
/// upstream that discovers them, fetches the directory of every `[acme]` section that a listener uses, runs the commands
/// of a node at the server of the cluster, and connects to the servers of upstreams with `tls`. Writes the numbers of keys and
/// servers, and the statuses, to `out`, and errors and warnings to `err`. Returns whether every section can be used.
pub fn run(path: &Path, config: &Config, out: &mut impl Write, err: &mut impl Write) -> io::Result<bool> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut succeeds = true;
    for (name, auth) in &config.auths {
        let section = format!("{}: auth \"{name}\"", path.display());
        let checked = match auth {
            AuthConfig::Token(verifier) => match &verifier.keys {
                KeySource::Remote { keys, .. } => runtime.block_on(check_keys(keys, &verifier.algorithms)),
                KeySource::Fixed(_) => continue,
            },
            AuthConfig::Forward(forward) => runtime.block_on(check_service(forward, host(config, name))),
        };
        match checked {
            Ok(Found::Usable(text)) => writeln!(out, "{section}: {text}")?,
            Ok(Found::Doubtful(text)) => writeln!(err, "warning: {section}: {text}")?,
            Err(text) => {
                writeln!(err, "error: {section}: {text}")?;
                succeeds = false;
            }
        }
    }
    for acme in &config.acmes {
        let section = format!("{}: acme \"{}\"", path.display(), acme.name);
        match runtime.block_on(check_directory(acme)) {
            Ok(()) => writeln!(out, "{section}: {} is an ACME directory", acme.directory)?,
            Err(text) => {
                writeln!(err, "error: {section}: {}: {text}", acme.directory)?;
                succeeds = false;
            }
        }
    }
    if let Some(cluster) = &config.cluster {
        let section = format!("{}: cluster", path.display());
        match runtime.block_on(cluster::check::check(cluster)) {
            Ok(()) => writeln!(out, "{section}: {} answers, and runs the commands of a node", cluster.servers)?,
            Err(error) => {
                writeln!(err, "error: {section}: {}: {error}", cluster.servers)?;
                succeeds = false;
            }
        }
    }
    Ok(check_servers(path, config, &runtime, out, err)? && succeeds)
}

/// Looks up the servers of every upstream that discovers them, and does a TLS handshake with those of upstreams with
/// `tls`. Returns whether all were found, and completed the handshake.
fn check_servers(
    path: &Path,
    config: &Config,
    runtime: &Runtime,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<bool> {
    let connector = ServerConnector::new(clock::now);
    connector.resolver().use_servers(&config.server.resolver);
    let mut succeeds = true;
    for upstream in &config.upstreams {
        let mut upstream = upstream.clone();
        let section = format!("{}: upstream \"{}\"", path.display(), upstream.name);
        if let Some(source) = upstream.discover.as_ref().filter(|source| source.is_looked_up()) {
            match runtime.block_on(find_servers(connector.resolver(), source)) {
                Ok(set) => {
                    writeln!(out, "{section}: {} servers from {source}", set.servers.len())?;
                    upstream.servers = set.servers;
                }
                Err(error) => {
                    writeln!(err, "error: {section}: {source}: {error}")?;
                    succeeds = false;
                }
            }
        }
        if upstream.tls.is_none() {
            continue;
        }
        let pool = Pool::new(upstream, clock::now());
        for server in pool.servers() {
            let section = format!("{section}: {}", server.name());
            match runtime.block_on(check_handshake(&connector, &pool, server)) {
                Ok(()) => writeln!(out, "{section}: the TLS handshake succeeds")?,
                Err(error) => {
                    writeln!(err, "error: {section}: {error}")?;
                    succeeds = false;
                }
            }
        }
    }
    Ok(succeeds)
}

/// What a section can decide with, in words.
enum Found {
    Usable(String),
    Doubtful(String),
}

/// Fetches a key set. An error says why it admits nobody.
async fn check_keys(remote: &RemoteKeys, algorithms: &[Algorithm]) -> Result<Found, String> {
    let set = fetch(&client(remote), remote).await.map_err(|error| error.to_string())?.keys;
    let (all, usable, url) = (set.ids().count(), set.count_for(algorithms), remote.location.url());
    if usable == 0 {
        return Err(format!("{url}: {all} keys, and no key of the set fits `algorithms`"));
    }
    Ok(Found::Usable(format!("{all} keys, {usable} for `algorithms`, from {url}")))
}

/// Asks a service about a request without credentials. An error says why its answer is no decision.
async fn check_service(forward: &ForwardConfig, host: &str) -> Result<Found, String> {
    let url = &forward.url;
    let status = ask(forward, host).await.map_err(|error| format!("{url}: {error}"))?;
    if status.is_success() {
        return Ok(Found::Doubtful(format!("{url} admits a request without credentials ({status})")));
    }
    if !is_rejection(status) {
        return Err(format!("{url} answers {status}, which is no decision: expected 2xx, 401, 403 or 3xx"));
    }
    Ok(Found::Usable(format!("{url} answers {status}")))
}

/// Connects to a server, and does the TLS handshake. A PROXY header names no client.
async fn check_handshake(connector: &ServerConnector, pool: &Pool, server: &Server) -> io::Result<()> {
    let header = if pool.config().proxy_protocol { proxy_header(None) } else { Vec::new() };
    let mut stream = connector.connect(pool.config(), server, &header, pool.config().connect_timeout).await?;
    // A server that accepts the handshake sends nothing, or closes because it got no request.
    match timeout(ALERT_TIMEOUT, stream.read(&mut [0])).await {
        Ok(Err(alert)) if alert.kind() == io::ErrorKind::InvalidData => Err(alert),
        _ => Ok(()),
    }
}

/// Returns a host of a route that uses this section. Some services reject other hosts.
fn host<'a>(config: &'a Config, auth: &str) -> &'a str {
    let routes = config.routes.iter().filter(|route| route.auth.iter().any(|name| **name == *auth));
    let mut hosts = routes.filter_map(|route| match &route.host {
        HostPattern::Any => None,
        HostPattern::Exact(host) | HostPattern::Subdomains(host) => Some(&**host),
    });
    hosts.next().unwrap_or("localhost")
}

/// Returns the status of the answer, whether or not it is a decision.
async fn ask(forward: &ForwardConfig, host: &str) -> Result<StatusCode, ClientError> {
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::from_str(host).map(|host| (HOST, host)));
    let client = Client { address: Ipv4Addr::LOCALHOST.into(), scheme: Scheme::Https, endpoints: None };
    let uri = Uri::from_static("/");
    let facts = RequestFacts::of_http((&Method::GET, &uri), &headers, client, 0);
    let question = facts.as_ref().map_or_else(|| Question::new(HeaderMap::new()), question::about);
    let asking = HttpClient::new(&forward.roots, 1);
    Ok(asking.head(question.request(forward), forward.timeout).await?.status())
}
