//! `tollgate check --online`: fetches every key set, asks every authentication service once, and looks up the servers
//! of upstreams.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use jsonwebtoken::Algorithm;
use tokio::runtime::{Builder, Runtime};

use crate::client::forward::is_rejection;
use crate::client::key_fetch::{client, fetch};
use crate::client::{ClientError, HttpClient};
use crate::config::{AuthConfig, Config};
use crate::front::question;
use crate::policy::forward::{ForwardConfig, Question};
use crate::policy::forwarded::{Client, Scheme};
use crate::policy::host::HostPattern;
use crate::policy::live_keys::{KeySource, RemoteKeys};
use crate::policy::request::RequestFacts;
use crate::runtime::clock;
use crate::upstream::discovery::find_servers;
use crate::upstream::resolver::Resolver;

/// Fetches the key set of every `[auth]` section that a route uses, or asks its service, and looks up the servers of
/// every upstream that discovers them. Writes the numbers of keys and servers and the statuses to `out`, and errors and
/// warnings to `err`. Returns whether every section can be used.
pub fn run(path: &Path, config: &Config, out: &mut impl Write, err: &mut impl Write) -> io::Result<bool> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut decide = check_servers(path, config, &runtime, out, err)?;
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
                decide = false;
            }
        }
    }
    Ok(decide)
}

/// Looks up the servers of every upstream that discovers them. Returns whether all were found.
fn check_servers(
    path: &Path,
    config: &Config,
    runtime: &Runtime,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<bool> {
    let resolver = Resolver::new(clock::now);
    resolver.use_servers(&config.server.resolver);
    let mut all_found = true;
    for upstream in &config.upstreams {
        let Some(source) = upstream.discover.as_ref().filter(|source| source.is_looked_up()) else { continue };
        let section = format!("{}: upstream \"{}\"", path.display(), upstream.name);
        match runtime.block_on(find_servers(&resolver, source)) {
            Ok(set) => writeln!(out, "{section}: {} servers from {source}", set.servers.len())?,
            Err(error) => {
                writeln!(err, "error: {section}: {source}: {error}")?;
                all_found = false;
            }
        }
    }
    Ok(all_found)
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
    let facts = RequestFacts::of_http(&uri, &headers, client, 0);
    let question = facts.as_ref().map_or_else(|| Question::new(HeaderMap::new()), question::about);
    let asking = HttpClient::new(&forward.roots, 1);
    Ok(asking.head(question.request(forward), forward.timeout).await?.status())
}
