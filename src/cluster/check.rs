//! Checks that a server does what a node needs of it.

use std::time::Duration;

use redis::{Cmd, RedisError, RedisResult, Script};

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

/// Returns what an operator may do about an error.
fn advice(config: &ClusterConfig, error: &RedisError) -> Option<&'static str> {
    let text = error.to_string();
    let has = |code: &str| error.code() == Some(code) || text.contains(code);
    if has("NOAUTH") && config.password.is_none() {
        return Some("`password_file` has to name a file with the password of the server, and `username` an ACL user");
    }
    if has("WRONGPASS") {
        return Some("the server knows no such user with the password in `password_file`");
    }
    if error.code() == Some("SCRIPT") || has("NOPERM") {
        return Some("the ACL of the user has to permit what a node does: config/cluster.md has such a user");
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
