//! `tollgate check --online`: fetches every key set and asks every authentication service once.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use http::header::HOST;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use tokio::runtime::{Builder, Runtime};

use crate::client::forward::is_rejection;
use crate::client::key_fetch::{FetchError, Fetched, client, fetch};
use crate::client::{ClientError, HttpClient};
use crate::config::{AuthConfig, Config};
use crate::front::question;
use crate::policy::forward::{ForwardConfig, Question};
use crate::policy::forwarded::{Client, Scheme};
use crate::policy::host::HostPattern;
use crate::policy::live_keys::{KeySource, RemoteKeys};
use crate::policy::request::RequestFacts;

/// The exit code if a key set cannot be fetched, or a service gives no decision.
const EXIT_FAILED: u8 = 1;

/// Fetches the key set of every `[auth]` section that a route uses, or asks its service. Writes the numbers of keys and
/// the statuses to `out`, and errors and warnings to `err`, and returns the exit code.
pub fn run(path: &Path, config: &Config, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut code = 0;
    for (name, auth) in &config.auths {
        let verifier = match auth {
            AuthConfig::Token(verifier) => verifier,
            AuthConfig::Forward(forward) => {
                let (path, url) = (path.display(), &forward.url);
                match ask(&runtime, config, name, forward) {
                    Ok(status) if status.is_success() => {
                        let problem = format!("{url} admits a request without credentials ({status})");
                        writeln!(err, "warning: {path}: auth \"{name}\": {problem}")?;
                    }
                    Ok(status) => writeln!(out, "{path}: auth \"{name}\": {url} answers {status}")?,
                    Err(error) => {
                        writeln!(err, "error: {path}: auth \"{name}\": {error}")?;
                        code = EXIT_FAILED;
                    }
                }
                continue;
            }
        };
        let KeySource::Remote { keys, .. } = &verifier.keys else { continue };
        let problem = match runtime.block_on(fetch_once(keys)) {
            Ok(Fetched { keys: set, .. }) => {
                let (all, usable) = (set.ids().count(), set.count_for(&verifier.algorithms));
                let url = keys.location.url();
                writeln!(
                    out,
                    "{}: auth \"{name}\": {all} keys, {usable} for `algorithms`, from {url}",
                    path.display()
                )?;
                (usable == 0).then(|| "no key of the set fits `algorithms`".to_owned())
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            writeln!(err, "error: {}: auth \"{name}\": {problem}", path.display())?;
            code = EXIT_FAILED;
        }
    }
    Ok(code)
}

/// Asks a service about a request without credentials. Returns its status if it is a decision, else an error.
fn ask(runtime: &Runtime, config: &Config, name: &str, forward: &ForwardConfig) -> Result<StatusCode, String> {
    let status = runtime.block_on(ask_once(forward, host(config, name))).map_err(|error| error.to_string())?;
    let is_decision = status.is_success() || is_rejection(status);
    is_decision
        .then_some(status)
        .ok_or_else(|| format!("{} answers {status}, which is no decision: expected 2xx, 401, 403 or 3xx", forward.url))
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

async fn ask_once(forward: &ForwardConfig, host: &str) -> Result<StatusCode, ClientError> {
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::from_str(host).map(|host| (HOST, host)));
    let client = Client { address: Ipv4Addr::LOCALHOST.into(), scheme: Scheme::Https };
    let uri = Uri::from_static("/");
    let facts = RequestFacts::of_http(&uri, &headers, client, 0);
    let question = facts.as_ref().map_or_else(|| Question::new(HeaderMap::new()), question::about);
    let asking = HttpClient::new(&forward.roots, 1);
    Ok(asking.head(question.request(forward), forward.timeout).await?.status())
}

async fn fetch_once(remote: &RemoteKeys) -> Result<Fetched, FetchError> {
    fetch(&client(remote), remote).await
}
