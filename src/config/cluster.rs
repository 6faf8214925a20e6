//! Reads the `[cluster]` section: the servers over which several nodes share their state.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::cluster_url::{ClusterServers, ClusterUrlError};
use super::common::Duplicates;
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Parsed, Section};
use super::files::FileLoader;
use super::key_source::roots;
use super::keys::{self, Key};
use crate::policy::key::secret_in;
use crate::policy::remote::Roots;

/// Maximum length of `prefix`, which is a part of every key on the servers.
const PREFIX_MAX_BYTES: usize = 64;
/// Maximum lengths of the name of a user and of a password.
const USERNAME_MAX_BYTES: usize = 256;
const PASSWORD_MAX_BYTES: usize = 4096;
/// Minimum length of the secret: the length of the keys that are derived from it.
const SECRET_MIN_BYTES: usize = 32;

/// The `[cluster]` section. `Debug` omits the secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where the servers are.
    pub servers: ClusterServers,
    /// The user of the servers; `None`: the default user. There is none without a password.
    pub username: Option<String>,
    /// The password of the user.
    pub password: Option<Zeroizing<String>>,
    /// The roots of the servers' certificates, if connections use TLS.
    pub roots: Roots,
    /// The secret that all nodes have: at least 32 bytes.
    pub secret: Option<Zeroizing<Vec<u8>>>,
    /// The start of the names of all keys: 1 to 64 visible ASCII characters without `{` and `}`, which mark
    /// the hash tags of Redis Cluster.
    pub prefix: Arc<str>,
    /// How long an upgrade waits for an answer of the servers.
    pub timeout: Duration,
    /// How long a node may be silent before the others take it for dead.
    pub node_timeout: Duration,
    /// What the nodes share.
    pub share: Shares,
    /// What a node does while the servers do not answer.
    pub on_outage: OnOutage,
}

/// What the nodes of a cluster share: at least one of these.
#[expect(clippy::struct_excessive_bools, reason = "each names state that is shared or not, whatever the others are")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shares {
    /// Quotas by subject and by address.
    pub quotas: bool,
    /// `sessions_per_subject` and `sessions_per_address`.
    pub slots: bool,
    /// Revocations.
    pub revocations: bool,
    /// The directory of sessions, and the commands to them.
    pub sessions: bool,
}

/// What a node does while the servers do not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOutage {
    /// It enforces its share of the limits.
    Local,
    /// It refuses new sessions.
    Refuse,
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { servers, username, roots, prefix, timeout, node_timeout, share, on_outage, .. } = self;
        f.debug_struct("ClusterConfig")
            .field("servers", servers)
            .field("username", username)
            .field("roots", roots)
            .field("prefix", prefix)
            .field("timeout", timeout)
            .field("node_timeout", node_timeout)
            .field("share", share)
            .field("on_outage", on_outage)
            .finish_non_exhaustive()
    }
}

/// Reads the section. The inner `None` means that the file has none.
#[expect(clippy::option_option, reason = "an error and an absent section are different")]
pub(super) fn read(root: &Section<'_>, folder: &FileLoader<'_>) -> Option<Option<ClusterConfig>> {
    if !root.has("cluster") {
        return Some(None);
    }
    let section = root.child("cluster");
    let servers = servers(&section);
    let username = username(&section);
    let password = password(&section, folder);
    let roots = roots(&section, folder, &keys::CLUSTER_CA);
    let secret = secret(&section, folder);
    let prefix = prefix(&section);
    let timeout = section.duration(&keys::CLUSTER_TIMEOUT);
    let node_timeout = section.duration(&keys::CLUSTER_NODE_TIMEOUT);
    let share = share(&section);
    let outages = [("local", OnOutage::Local), ("refuse", OnOutage::Refuse)];
    let on_outage = section.choice(&keys::CLUSTER_ON_OUTAGE, &outages);
    if let Some(servers) = &servers {
        warn_of_servers(&section, servers);
    }
    Some(Some(ClusterConfig {
        servers: servers?.value,
        username: username?,
        password: password?,
        roots: roots?,
        secret: secret?,
        prefix: prefix?,
        timeout: timeout?,
        node_timeout: node_timeout?,
        share: share?,
        on_outage: on_outage?.value,
    }))
}

fn servers(section: &Section<'_>) -> Option<Located<ClusterServers>> {
    let text = section.text(&keys::CLUSTER_URL)?;
    let error = match ClusterServers::parse(&text) {
        Ok(value) => return Some(Located { value, span: text.span }),
        Err(error) => error,
    };
    let diagnostic = if error == ClusterUrlError::UserInfo {
        // Neither the message nor the line shows what follows the scheme.
        let scheme = text.find(':').map_or(0, |colon| colon.saturating_add(1));
        let end = text.span.start.saturating_add(1).saturating_add(scheme).min(text.span.end);
        Diagnostic::error(text.span.start..end, "`url` has a user name or a password").hide_rest()
    } else {
        Diagnostic::error(text.span.clone(), format!("{} cannot be the URL of a cluster", quote(&text)))
    };
    section.diagnostics.push(diagnostic.label(error.label()).help(error.help()));
    None
}

fn warn_of_servers(section: &Section<'_>, servers: &Located<ClusterServers>) {
    if let Some(span) = section.key_span(&keys::CLUSTER_CA).filter(|_| !servers.uses_tls()) {
        section.diagnostics.push(
            Diagnostic::warning(span, format!("`{}` has no effect", keys::CLUSTER_CA.name))
                .label("it concerns only connections with TLS"),
        );
    }
    if let Some(ip) = servers.exposed() {
        section.diagnostics.push(
            Diagnostic::warning(servers.span.clone(), format!("the connection to {ip} is not encrypted"))
                .label("the password, subjects and messages would cross the network unencrypted")
                .help("use TLS, as in \"rediss://redis.example.com\", or a loopback or private address"),
        );
    }
}

fn username(section: &Section<'_>) -> Parsed<Option<String>> {
    let Some(span) = section.key_span(&keys::CLUSTER_USERNAME) else { return Some(None) };
    let text = section.text(&keys::CLUSTER_USERNAME)?;
    if !(1..=USERNAME_MAX_BYTES).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let label = format!("expected 1 to {USERNAME_MAX_BYTES} visible ASCII characters");
        return wrong(section, &keys::CLUSTER_USERNAME, &text, &label);
    }
    if section.key_span(&keys::CLUSTER_PASSWORD_FILE).is_none() {
        section.diagnostics.push(
            Diagnostic::error(span, "`username` needs `password_file`")
                .label("this user would have no password")
                .help(keys::CLUSTER_PASSWORD_FILE.doc),
        );
        return None;
    }
    Some(Some(text.value))
}

fn password(section: &Section<'_>, folder: &FileLoader<'_>) -> Parsed<Option<Zeroizing<String>>> {
    let key = &keys::CLUSTER_PASSWORD_FILE;
    if section.key_span(key).is_none() {
        return Some(None);
    }
    let content = folder.read_secret(section, key)?;
    let password = secret_in(&content.bytes);
    let label = match str::from_utf8(password) {
        Err(_) => "it is not UTF-8".to_owned(),
        Ok("") => "it is empty".to_owned(),
        Ok(text) if text.len() > PASSWORD_MAX_BYTES => format!("it has more than {PASSWORD_MAX_BYTES} bytes"),
        Ok(text) if text.contains(['\n', '\r', '\0']) => "it has more than one line".to_owned(),
        Ok(text) => return Some(Some(Zeroizing::new(text.to_owned()))),
    };
    unusable(section, key, content.span, label)
}

fn secret(section: &Section<'_>, folder: &FileLoader<'_>) -> Parsed<Option<Zeroizing<Vec<u8>>>> {
    let key = &keys::CLUSTER_SECRET_FILE;
    if section.key_span(key).is_none() {
        return Some(None);
    }
    let content = folder.read_secret(section, key)?;
    let secret = secret_in(&content.bytes);
    if secret.len() >= SECRET_MIN_BYTES {
        return Some(Some(Zeroizing::new(secret.to_vec())));
    }
    let label = format!("it has {} bytes, and at least {SECRET_MIN_BYTES} are needed", secret.len());
    unusable(section, key, content.span, label)
}

fn prefix(section: &Section<'_>) -> Option<Arc<str>> {
    let text = section.text(&keys::CLUSTER_PREFIX)?;
    let valid = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
    if (1..=PREFIX_MAX_BYTES).contains(&text.len()) && text.bytes().all(valid) {
        return Some(text.value.into());
    }
    let label = format!("expected 1 to {PREFIX_MAX_BYTES} visible ASCII characters without {{ and }}");
    wrong(section, &keys::CLUSTER_PREFIX, &text, &label)
}

fn share(section: &Section<'_>) -> Option<Shares> {
    let key = &keys::CLUSTER_SHARE;
    if section.is_empty_list(key) {
        section.diagnostics.push(
            Diagnostic::error(section.key_span(key)?, "`share` is empty")
                .label("the nodes of this cluster would share nothing"),
        );
        return None;
    }
    if section.key_span(key).is_none() {
        return Some(Shares { quotas: true, slots: true, revocations: true, sessions: true });
    }
    let words = section.texts(key, Shares::WORDS.len())?;
    let (mut share, mut seen, mut valid) = (Shares::default(), Duplicates::default(), !words.value.is_empty());
    for word in &words.value {
        seen.note(section, word, "entry", word);
        if let Some(flag) = share.named(word) {
            *flag = true;
        } else {
            let label = format!("must be one of {}", Shares::WORDS.map(|word| format!("{word:?}")).join(", "));
            wrong::<()>(section, key, word, &label);
            valid = false;
        }
    }
    valid.then_some(share)
}

impl Shares {
    const WORDS: [&str; 4] = ["quotas", "slots", "revocations", "sessions"];

    /// Returns the field of this name.
    fn named(&mut self, word: &str) -> Option<&mut bool> {
        match word {
            "quotas" => Some(&mut self.quotas),
            "slots" => Some(&mut self.slots),
            "revocations" => Some(&mut self.revocations),
            "sessions" => Some(&mut self.sessions),
            _ => None,
        }
    }
}

/// Reports a value that a key cannot have.
fn wrong<T>(section: &Section<'_>, key: &Key, value: &Located<String>, label: &str) -> Option<T> {
    let message = format!("{} cannot be the value of `{}`", quote(value), key.name);
    section.diagnostics.push(Diagnostic::error(value.span.clone(), message).label(label));
    None
}

/// Reports a file whose content cannot be used.
fn unusable<T>(section: &Section<'_>, key: &Key, span: super::diagnostic::Span, label: String) -> Option<T> {
    let message = format!("the file of `{}` cannot be used", key.name);
    section.diagnostics.push(Diagnostic::error(span, message).label(label));
    None
}
