//! Checks that a server does what a node needs of it.

use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisError, RedisResult, Script};

use super::connect::{CONNECT_MIN, Connector};
use super::keys::Keys;
use super::time::millis;
use crate::config::ClusterConfig;

/// How long the keys of the check are kept.
const KEPT: Duration = Duration::from_secs(1);

/// Connects, and runs each command that a node runs, on keys that end soon.
///
/// # Errors
/// Says which command fails, and what may be wrong with the section.
pub async fn check(config: &ClusterConfig) -> Result<(), String> {
    run(config).await.map_err(|error| match advice(config, &error) {
        Some(advice) => format!("{error}: {advice}"),
        None => error.to_string(),
    })
}

async fn run(config: &ClusterConfig) -> RedisResult<()> {
    let mut connection = Connector::new(config)?.connect(config.timeout.max(CONNECT_MIN), Some(config.timeout)).await?;
    let keys = Keys::new(&config.prefix);
    let [text, sorted, hash, stream, list] =
        ["text", "sorted", "hash", "stream", "list"].map(|name| keys.named(format_args!("{{check}}:{name}")));
    let live = millis(KEPT);
    let command = |name: &str, key: &str, arguments: &[&str]| {
        let mut command = redis::cmd(name);
        command.arg(key).arg(arguments);
        command
    };
    let expire = |key: &str| -> Cmd {
        {
            let mut command = redis::cmd("PEXPIRE");
            command.arg(key).arg(live);
            command
        }
    };
    let mut read = redis::cmd("XREAD");
    read.arg("COUNT").arg(1).arg("BLOCK").arg(1).arg("STREAMS").arg(&stream).arg("0");
    // A user that may not run the first one would leave keys without an end.
    for command in [
        expire(&text),
        command("ZADD", &sorted, &["1", "a"]),
        expire(&sorted),
        command("ZREM", &sorted, &["a"]),
        command("XADD", &stream, &["MAXLEN", "~", "1", "*", "a", "1"]),
        expire(&stream),
        read,
        command("XRANGE", &stream, &["-", "+", "COUNT", "1"]),
        command("HSCAN", &hash, &["0", "COUNT", "1"]),
        command("RPUSH", &list, &["a"]),
        expire(&list),
        command("LPOP", &list, &[]),
    ] {
        command.query_async::<()>(&mut connection).await?;
    }
    let script = Script::new(include_str!("check.lua"));
    script.key(text).key(sorted).key(hash).key(stream).arg(live).invoke_async(&mut connection).await
}

/// Whether the server has answered, with this error.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some() || error.kind() == ErrorKind::AuthenticationFailed
}

/// Returns what an operator may do about an error.
pub(super) fn advice(config: &ClusterConfig, error: &RedisError) -> Option<&'static str> {
    let text = error.to_string();
    let has = |code: &str| error.code() == Some(code) || text.contains(code);
    if has("NOAUTH") && config.password.is_none() {
        return Some("`password_file` has to name a file with the password of the server, and `username` an ACL user");
    }
    if has("OOM") {
        return Some("the memory of the server is full: raise its `maxmemory`");
    }
    if has("WRONGPASS") {
        return Some("the server knows no such user with the password in `password_file`");
    }
    if error.code() == Some("SCRIPT") || has("NOPERM") {
        return Some("the ACL of the user has to permit what a node does: config/cluster.md has such a user");
    }
    if error.is_connection_refusal() {
        return Some("no server listens there: check that it runs, and that `url` names its address and port");
    }
    if !config.servers.uses_tls() {
        let is_closed = error.is_connection_dropped();
        return is_closed.then_some("the server may expect TLS, which `rediss` in the URL is for");
    }
    if error.is_timeout() || has("InvalidContentType") {
        return Some("the server may be one without TLS, which `redis` in the URL is for");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::config::tests::InMemory;

    fn config(section: &str) -> ClusterConfig {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:443\"\ncertificates = [{{ chain = \"chain.pem\", key = \"key.pem\" }}]\n\
             [upstream.chat]\nservers = [\"127.0.0.1:9001\"]\n\
             [[route]]\nname = \"chat\"\npath = \"/\"\nupstream = \"chat\"\nauth = \"none\"\n[cluster]\n{section}\n"
        );
        let config = crate::config::parse(&text, Path::new("tollgate.toml"), Path::new(""), &InMemory::new()).unwrap();
        config.cluster.as_deref().unwrap().clone()
    }

    #[test]
    fn advice_fits_the_error() {
        let plain = config("url = \"redis://127.0.0.1:6379\"");
        let of = |kind: io::ErrorKind| advice(&plain, &io::Error::from(kind).into());
        assert!(of(io::ErrorKind::ConnectionRefused).is_some_and(|advice| advice.contains("no server listens")));
        assert!(of(io::ErrorKind::ConnectionReset).is_some_and(|advice| advice.contains("`rediss`")));
        assert_eq!(of(io::ErrorKind::TimedOut), None);
        let wrong = RedisError::from((ErrorKind::AuthenticationFailed, "login", "WRONGPASS no such user".to_owned()));
        assert!(advice(&plain, &wrong).is_some_and(|advice| advice.contains("`password_file`")));
    }

    #[test]
    fn only_an_answer_of_the_server_is_a_refusal() {
        let answer = RedisError::from((ErrorKind::Server(redis::ServerErrorKind::ReadOnly), "read only"));
        assert!(is_refusal(&answer) && is_refusal(&(ErrorKind::AuthenticationFailed, "login").into()));
        assert!(!is_refusal(&io::Error::from(io::ErrorKind::ConnectionRefused).into()));
    }
}
