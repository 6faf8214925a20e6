//! `tollgate check --online`: fetches every key set once.

use std::io::{self, Write};
use std::path::Path;

use tokio::runtime::Builder;

use crate::client::key_fetch::{FetchError, Fetched, client, fetch};
use crate::config::Config;
use crate::policy::live_keys::{KeySource, RemoteKeys};

/// The exit code if a key set cannot be fetched.
const EXIT_FAILED: u8 = 1;

/// Fetches the key set of every `[auth]` section that a route uses. Writes the numbers of keys to `out` and errors to
/// `err`, and returns the exit code.
pub fn run(path: &Path, config: &Config, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut code = 0;
    for (name, verifier) in &config.verifiers {
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

async fn fetch_once(remote: &RemoteKeys) -> Result<Fetched, FetchError> {
    fetch(&client(remote)?, remote).await
}
