//! Reads the `[upstream.NAME]` sections.

use std::net::Ipv6Addr;
use std::sync::Arc;

use super::common::{Duplicates, NamedSection, name as check_name, unix_path};
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::keys;
use crate::balance::{ServerAddress, UpstreamConfig};

const UPSTREAMS_MAX: usize = 1024;
const SERVERS_MAX: usize = 256;

/// Reads every upstream, in the order of the file.
pub(super) fn read_all(root: &Section<'_>) -> Vec<NamedSection<Option<UpstreamConfig>>> {
    let sections = root.named("upstream", UPSTREAMS_MAX);
    let read = |(name, section): (Located<&str>, Section<'_>)| {
        let upstream = read(&name, &section);
        NamedSection { name: name.value.to_owned(), span: name.span, value: upstream }
    };
    sections.into_iter().map(read).collect()
}

fn read(name: &Located<&str>, section: &Section<'_>) -> Option<UpstreamConfig> {
    let valid_name = check_name(section, name, &name.span);
    let servers = servers(section);
    let base_path = base_path(section);
    let connect_timeout = section.duration(&keys::CONNECT_TIMEOUT);
    let response_timeout = section.duration(&keys::RESPONSE_TIMEOUT);
    let max_pending_requests = section.integer(&keys::MAX_PENDING_REQUESTS);
    let proxy_protocol = section.flag(&keys::PROXY_PROTOCOL);
    let title_case_headers = section.flag(&keys::TITLE_CASE_HEADERS);
    valid_name?;
    Some(UpstreamConfig {
        name: Arc::from(name.value),
        servers: servers?,
        base_path: base_path?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        max_pending_requests: max_pending_requests?.value,
        proxy_protocol: proxy_protocol?.value,
        title_case_headers: title_case_headers?.value,
    })
}

fn servers(section: &Section<'_>) -> Option<Vec<ServerAddress>> {
    let texts = section.texts(&keys::SERVERS, SERVERS_MAX)?;
    if section.is_empty_list(&keys::SERVERS) {
        section
            .diagnostics
            .push(Diagnostic::error(texts.span, "an upstream needs a server").label("the list is empty"));
        return None;
    }
    let mut seen = Duplicates::default();
    let mut servers = Vec::new();
    for text in &texts.value {
        match server(text) {
            Ok(address) => {
                seen.note(section, &Located { value: address.clone(), span: text.span.clone() }, "server", text);
                servers.push(address);
            }
            Err((label, help)) => section.diagnostics.push(
                Diagnostic::error(text.span.clone(), format!("{} is not the address of a server", quote(text)))
                    .label(label)
                    .help(help),
            ),
        }
    }
    Some(servers)
}

/// Parses `IP:port`, `name:port` or `unix:/path`. The error is the label at the caret and the help text.
fn server(text: &str) -> Result<ServerAddress, (&'static str, String)> {
    const FORM: &str = "write it as in \"127.0.0.1:9001\", \"[::1]:9001\", \"backend.internal:9001\" or \
                        \"unix:/run/app.sock\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(ServerAddress::Unix);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(match scheme {
            "wss" | "https" => (
                "TLS towards servers is not supported",
                "tollgate speaks plain ws:// to servers: write a host and a port, as in \"127.0.0.1:9001\"".to_owned(),
            ),
            _ => {
                let host = rest.split('/').next().unwrap_or_default();
                let host = if host.is_empty() { "127.0.0.1:9001" } else { host };
                ("expected no scheme and no path", format!("write {}; a path goes into the key `path`", quote(host)))
            }
        });
    }
    let (host, port) = text.rsplit_once(':').ok_or(("the port is missing", FORM.to_owned()))?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0);
    let port = port.ok_or(("the port must be between 1 and 65535", FORM.to_owned()))?;
    if let Some(bracketed) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let ip: Ipv6Addr = bracketed.parse().map_err(|_| ("no IPv6 address in the brackets", FORM.to_owned()))?;
        return Ok(ServerAddress::Tcp { host: ip.to_string(), port });
    }
    if host.contains(':') {
        return Err(("an IPv6 address must be in brackets", FORM.to_owned()));
    }
    if !is_host_name(host) {
        return Err(("neither an IP address nor a host name", FORM.to_owned()));
    }
    Ok(ServerAddress::Tcp { host: host.to_ascii_lowercase(), port })
}

/// Whether this is a host name or an IPv4 address. A host of only digits and dots must be a valid IPv4 address.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let plain = host.strip_suffix('.').unwrap_or(host);
    plain.len() <= 253 && plain.split('.').all(label) && (!numeric || host.parse::<std::net::Ipv4Addr>().is_ok())
}

fn base_path(section: &Section<'_>) -> Option<String> {
    let text = section.text(&keys::BASE_PATH)?;
    let wrong = if text.is_empty() {
        None
    } else if !text.starts_with('/') {
        Some("must start with a slash")
    } else if text.ends_with('/') {
        Some("must not end with a slash: the path of the request starts with one")
    } else if text.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        Some("must have no segments that are empty, `.` or `..`")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}%".contains(&byte)) {
        Some("must contain only characters that are valid in a path, without percent-encoding")
    } else {
        None
    };
    let Some(label) = wrong else { return Some(text.value) };
    section
        .diagnostics
        .push(Diagnostic::error(text.span.clone(), format!("{} is not a base path", quote(&text))).label(label));
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_display_as_written() {
        for text in ["127.0.0.1:9001", "[::1]:9001", "backend.internal:9001", "a_b:1", "unix:/run/app.sock"] {
            assert_eq!(server(text).unwrap().to_string(), text);
        }
        assert_eq!(server("Backend:80").unwrap().to_string(), "backend:80");
    }

    #[test]
    fn invalid_server_addresses_are_rejected() {
        for text in [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "::1:80",
            "[::1]",
            "[a]:1",
            "[127.0.0.1]:1",
            "1.2.3:4",
            "999.0.0.1:1",
            "-a:1",
            "a..b:1",
            "a b:1",
            "é:1",
            "unix:",
            "unix:app.sock",
            "ws://a:1",
            "wss://a:1",
            "http://",
            "a:1/x",
        ] {
            assert!(server(text).is_err(), "{text}");
        }
    }
}
