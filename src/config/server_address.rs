//! Parses the address of a server: an IP address or a name with a port, or a Unix socket.

use std::net::Ipv6Addr;

use super::common::unix_path;
use super::diagnostic::quote;
use crate::balance::ServerAddress;

/// Parses `IP:port`, `name:port` or `unix:/path`. The error is the label at the caret and the help text.
pub(super) fn server_address(text: &str) -> Result<ServerAddress, (&'static str, String)> {
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
pub(super) fn is_host_name(host: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_display_as_written() {
        for text in ["127.0.0.1:9001", "[::1]:9001", "backend.internal:9001", "a_b:1", "unix:/run/app.sock"] {
            assert_eq!(server_address(text).unwrap().to_string(), text);
        }
        assert_eq!(server_address("Backend:80").unwrap().to_string(), "backend:80");
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
            assert!(server_address(text).is_err(), "{text}");
        }
    }
}
