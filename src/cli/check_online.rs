//! `tollgate check --online`: fetches every key set and asks every authentication service once.

use std::io::{self, Write};
use std::path::Path;

use http::{HeaderMap, StatusCode};
use tokio::runtime::Builder;

use crate::client::key_fetch::{FetchError, Fetched, client, fetch};
use crate::client::{ClientError, HttpClient, RequestLimits};
use crate::config::{AuthConfig, Config};
use crate::policy::forward::{ForwardConfig, Question};
use crate::policy::live_keys::{KeySource, RemoteKeys};

/// The maximum size of a service's response.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// The exit code if a key set cannot be fetched, or a service does not answer.
const EXIT_FAILED: u8 = 1;

/// Fetches the key set of every `[auth]` section that a route uses. Writes the numbers of keys to `out` and errors to
/// `err`, and returns the exit code.
pub fn run(path: &Path, config: &Config, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut code = 0;
    for (name, auth) in &config.auths {
        let verifier = match auth {
            AuthConfig::Token(verifier) => verifier,
            AuthConfig::Forward(forward) => {
                match runtime.block_on(ask_once(forward)) {
                    Ok(status) => {
                        writeln!(out, "{}: auth \"{name}\": {} answers {status}", path.display(), forward.url)?;
                    }
                    Err(error) => {
                        writeln!(err, "error: {}: auth \"{name}\": {error}", path.display())?;
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

/// Asks a service about a request without a credential. Any status is an answer.
async fn ask_once(forward: &ForwardConfig) -> Result<StatusCode, ClientError> {
    let client = HttpClient::new(&forward.roots, 1);
    let limits = RequestLimits { timeout: forward.timeout, body_max_bytes: BODY_MAX_BYTES };
    let question = Question::new(HeaderMap::new());
    Ok(client.send(question.request(forward), limits).await?.status())
}

async fn fetch_once(remote: &RemoteKeys) -> Result<Fetched, FetchError> {
    fetch(&client(remote), remote).await
}
