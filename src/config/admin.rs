//! Reads the `[admin]` and `[metrics]` sections.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::common::{socket_group, unix_path};
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::files::FileLoader;
use super::keys::{self, Key};
use super::model::{AdminAddress, AdminClientConfig, AdminConfig, AdminToken};

/// The shortest and the longest token. A shorter one could be guessed.
const TOKEN_MIN_BYTES: usize = 16;
const TOKEN_MAX_BYTES: usize = 512;

/// Reads `[admin]`. The inner `None` means that the file has no such section.
#[expect(clippy::option_option, reason = "an error and an absent section are different")]
pub(super) fn read(root: &Section<'_>, folder: &FileLoader<'_>) -> Option<Option<AdminConfig>> {
    if !root.has("admin") {
        return Some(None);
    }
    let section = root.child("admin");
    let address = address(&section);
    let is_unix = address.as_ref().map(|address| matches!(address.value, AdminAddress::Unix(_)));
    let group = socket_group(&section, &keys::ADMIN_SOCKET_GROUP, is_unix);
    let token = token(&section, folder, &keys::ADMIN_TOKEN_FILE);
    let read_token = token_that_reads(&section, folder, token.as_ref());
    let payload = section.flag(&keys::ADMIN_PAYLOAD);
    let address = address?;
    if matches!(address.value, AdminAddress::Tcp(_)) && section.key_span(&keys::ADMIN_TOKEN_FILE).is_none() {
        section.diagnostics.push(
            Diagnostic::error(address.span, "an admin API on a TCP address needs a token")
                .label("every program on this machine can connect to it")
                .help("add `token_file`, or use a Unix socket: \"unix:/run/tollgate/admin.sock\""),
        );
        return None;
    }
    Some(Some(AdminConfig {
        address: address.value,
        socket_group: group?,
        token: token?,
        read_token: read_token?,
        payload: payload?.value,
    }))
}

/// Reads what a client of the admin API needs. The inner `None` means that the file has no `[admin]` section. The token
/// is read if the address needs one and `with_token` is set.
#[expect(clippy::option_option, reason = "an error and an absent section are different")]
pub(super) fn client(
    root: &Section<'_>,
    folder: &FileLoader<'_>,
    with_token: bool,
) -> Option<Option<AdminClientConfig>> {
    if !root.has("admin") {
        return Some(None);
    }
    let section = root.child("admin");
    let address = address(&section)?.value;
    let needs_token = with_token && matches!(address, AdminAddress::Tcp(_));
    let token =
        if needs_token { Some(folder.read_secret(&section, &keys::ADMIN_TOKEN_FILE)?.value.bytes) } else { None };
    Some(Some(AdminClientConfig { address, token: token.map(|token| Zeroizing::new(token.trim_ascii_end().to_vec())) }))
}

/// Reads the address of `[metrics]`. The inner `None` means that the file has no such section.
#[expect(clippy::option_option, reason = "an error and an absent section are different")]
pub(super) fn metrics(root: &Section<'_>) -> Option<Option<SocketAddr>> {
    if !root.has("metrics") {
        return Some(None);
    }
    let text = root.child("metrics").text(&keys::METRICS_ADDRESS)?;
    if let Ok(address) = text.parse() {
        return Some(Some(address));
    }
    root.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("{} is not an address to listen on", quote(&text)))
            .label("expected an IP address and a port")
            .help("write it as in \"127.0.0.1:9641\""),
    );
    None
}

fn address(section: &Section<'_>) -> Option<Located<AdminAddress>> {
    const FORM: &str = "write it as in \"unix:/run/tollgate/admin.sock\" or \"127.0.0.1:9640\"";
    let text = section.text(&keys::ADMIN_ADDRESS)?;
    let parsed = if let Some(path) = text.strip_prefix("unix:") {
        unix_path(path).map(AdminAddress::Unix)
    } else {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(AdminAddress::Tcp(address)),
            Ok(_) => Err(("not a loopback address", "the admin API is for this machine only".to_owned())),
            Err(_) => Err(("neither a loopback address nor the path of a Unix socket", FORM.to_owned())),
        }
    };
    match parsed {
        Ok(value) => Some(Located { value, span: text.span }),
        Err((label, help)) => {
            let message = format!("{} cannot be the address of the admin API", quote(&text));
            section.diagnostics.push(Diagnostic::error(text.span, message).label(label).help(help));
            None
        }
    }
}

/// Reads a token from a file: visible ASCII, of at least 16 and at most 512 bytes, with one optional line end.
#[expect(clippy::option_option, reason = "an error and an absent key are different")]
fn token(section: &Section<'_>, folder: &FileLoader<'_>, key: &Key) -> Option<Option<AdminToken>> {
    if section.key_span(key).is_none() {
        return Some(None);
    }
    let content = folder.read_secret(section, key)?;
    let token = content.value.bytes.trim_ascii_end();
    let label = if !(TOKEN_MIN_BYTES..=TOKEN_MAX_BYTES).contains(&token.len()) {
        format!("the token has {} bytes; expected {TOKEN_MIN_BYTES} to {TOKEN_MAX_BYTES}", token.len())
    } else if !token.iter().all(u8::is_ascii_graphic) {
        "the token contains a character that is not visible ASCII".to_owned()
    } else {
        return Some(Some(AdminToken::new(token)));
    };
    section.diagnostics.push(
        Diagnostic::error(content.span, format!("the file of `{}` cannot be used", key.name))
            .label(label)
            .help("make a token: openssl rand -hex 32"),
    );
    None
}

/// Reads the token that may only read, which must differ from the one with all rights.
#[expect(clippy::option_option, reason = "an error and an absent key are different")]
fn token_that_reads(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    full: Option<&Option<AdminToken>>,
) -> Option<Option<AdminToken>> {
    let token = token(section, folder, &keys::ADMIN_READ_TOKEN_FILE)?;
    if token.is_some() && full.is_some_and(|full| *full == token) {
        let span = section.key_span(&keys::ADMIN_READ_TOKEN_FILE).unwrap_or_default();
        section.diagnostics.push(
            Diagnostic::error(span, "both tokens of the admin API are the same")
                .label("this token would have all rights"),
        );
        return None;
    }
    Some(token)
}
