//! Reads where an upstream's servers are listed: `servers` in the file itself, or `discover`.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::balance;
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::files::FileLoader;
use super::key::Kind;
use super::keys;
use super::server_address::{is_host_name, server_address};
use crate::balance::{Discover, ServerAddress, ServerConfig};

/// Maximum number of servers in a file.
const LISTED_MAX: usize = 1024;

/// The servers of an upstream, and where they are listed. Those that are looked up are not known here.
pub(super) struct Servers {
    pub(super) servers: Vec<ServerConfig>,
    pub(super) discover: Option<Discover>,
}

/// Reads `servers` or `discover`, of which a section has one.
pub(super) fn read(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<Servers> {
    let Some(span) = section.key_span(&keys::DISCOVER) else {
        return balance::servers(section).map(|servers| Servers { servers, discover: None });
    };
    let text = section.text(&keys::DISCOVER);
    if let Some(servers) = section.key_span(&keys::SERVERS) {
        let message = format!("{} has both `servers` and `discover`", section.title());
        let diagnostic = Diagnostic::error(span, message).label("the servers are listed in one place");
        section.diagnostics.push(diagnostic.related(servers, "the other list"));
        return None;
    }
    let text = text?;
    match text.split_once(':') {
        Some(("file", path)) => listed(section, folder, &text, path),
        Some(("dns", rest)) => Some(addresses(section, &text, rest)?.into()),
        Some(("srv", name)) => Some(services(section, &text, name)?.into()),
        _ => {
            let label = "expected \"file:\", \"dns:\" or \"srv:\"";
            refuse(section, &text, label);
            None
        }
    }
}

impl From<Discover> for Servers {
    fn from(discover: Discover) -> Self {
        Self { servers: Vec::new(), discover: Some(discover) }
    }
}

fn refuse(section: &Section<'_>, text: &Located<String>, label: &str) {
    section.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("{} cannot be the value of `discover`", quote(text)))
            .label(label)
            .help("write it as in \"file:servers.json\", \"dns:chat.internal:9001\" or \"srv:_ws._tcp.chat.internal\""),
    );
}

fn addresses(section: &Section<'_>, text: &Located<String>, rest: &str) -> Option<Discover> {
    let label = match server_address(rest) {
        Ok(ServerAddress::Unix(_)) => "expected a name and a port",
        Ok(address) if !address.has_name() => "an IP address needs no look-up: list it in `servers`",
        Ok(ServerAddress::Tcp { host, port }) => return Some(Discover::Addresses { host, port }),
        Err((label, _)) => label,
    };
    refuse(section, text, label);
    None
}

fn services(section: &Section<'_>, text: &Located<String>, name: &str) -> Option<Discover> {
    if is_host_name(name) && name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        return Some(Discover::Services(name.to_ascii_lowercase()));
    }
    let label = if name.contains(':') { "the ports are those of the records" } else { "not a name" };
    refuse(section, text, label);
    None
}

fn listed(section: &Section<'_>, folder: &FileLoader<'_>, text: &Located<String>, path: &str) -> Option<Servers> {
    let (content, path) = folder.read_alone(section, Located { value: path.to_owned(), span: text.span.clone() })?;
    match serde_json::from_slice::<List>(&content.bytes) {
        Ok(List(servers)) => Some(Servers { servers, discover: Some(Discover::InFile(path)) }),
        Err(error) => {
            section.diagnostics.push(
                Diagnostic::error(text.span.clone(), format!("{} is not a list of servers", quote(text)))
                    .label(error.to_string())
                    .help("it is a JSON list, as in [\"127.0.0.1:9001\", {\"address\": \"127.0.0.1:9002\", \"weight\": 2}]"),
            );
            None
        }
    }
}

/// The servers of a file, without duplicates.
#[derive(Debug)]
struct List(Vec<ServerConfig>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of servers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
        let mut servers: Vec<ServerConfig> = Vec::new();
        while let Some(Listed(server)) = items.next_element()? {
            if servers.len() == LISTED_MAX {
                return Err(A::Error::custom(format!("there are more than {LISTED_MAX} servers")));
            }
            if servers.iter().any(|other| other.address == server.address) {
                let address = quote(&server.address.to_string());
                return Err(A::Error::custom(format!("the server {address} is listed twice")));
            }
            servers.push(server);
        }
        Ok(List(servers))
    }
}

/// A server of a file: an address, or an object with the keys of an entry in `servers`.
struct Listed(ServerConfig);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListedVisitor).map(Self)
    }
}

struct ListedVisitor;

impl<'de> Visitor<'de> for ListedVisitor {
    type Value = ServerConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the address of a server or an object")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ServerConfig, E> {
        address(text).map(ServerConfig::from)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ServerConfig, A::Error> {
        let written = Written::deserialize(MapAccessDeserializer::new(map))?;
        let weight = written.weight.map(|weight| within(weight, &keys::SERVER_WEIGHT)).transpose()?;
        let max_sessions = written.max_sessions.map(|max| within(max, &keys::SERVER_MAX_SESSIONS)).transpose()?;
        Ok(ServerConfig {
            address: address(&written.address)?,
            weight: weight
                .and_then(|weight| u16::try_from(weight).ok())
                .and_then(NonZeroU16::new)
                .unwrap_or(NonZeroU16::MIN),
            max_sessions: max_sessions.and_then(NonZeroU32::new),
            drain: written.drain,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    address: String,
    weight: Option<u64>,
    max_sessions: Option<u64>,
    #[serde(default)]
    drain: bool,
}

fn address<E: Error>(text: &str) -> Result<ServerAddress, E> {
    server_address(text)
        .map_err(|(label, _)| E::custom(format!("{} is not the address of a server: {label}", quote(text))))
}

/// Checks a number against the bounds of the key of the same name.
fn within<E: Error>(number: u64, key: &keys::Key) -> Result<u32, E> {
    let Kind::Integer(min, max, _) = key.kind else { return Err(E::custom("not a number")) };
    let number = u32::try_from(number).ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| E::custom(format!("`{}` must be between {min} and {max}", key.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<ServerConfig>, String> {
        serde_json::from_str::<List>(text).map(|list| list.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_lists_addresses_and_objects() {
        let text = r#"["127.0.0.1:9001", {"address": "Backend:9001", "weight": 3, "max_sessions": 10, "drain": true},
                      {"address": "unix:/run/app.sock"}]"#;
        let servers = read(text).unwrap();
        let shown = |server: &ServerConfig| {
            let max_sessions = server.max_sessions.map_or(0, u32::from);
            (server.address.to_string(), server.weight.get(), max_sessions, server.drain)
        };
        let expected =
            [("127.0.0.1:9001", 1, 0, false), ("backend:9001", 3, 10, true), ("unix:/run/app.sock", 1, 0, false)];
        let expected = expected.map(|(address, weight, max, drain)| (address.to_owned(), weight, max, drain));
        assert_eq!(servers.iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!(read("[]"), Ok(Vec::new()));
    }

    #[test]
    fn errors_of_a_file_have_their_line_and_column() {
        let many = format!("[{}]", (1..=1025).map(|port| format!("\"a:{port}\"")).collect::<Vec<_>>().join(","));
        for (text, expected) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("{}", "invalid type: map, expected a list of servers at line 1 column 0"),
            ("[\n  \"127.0.0.1:9001\"\n  \"127.0.0.1:9002\"\n]", "expected `,` or `]` at line 3 column 3"),
            (
                "[\n  \"127.0.0.1\"\n]",
                "\"127.0.0.1\" is not the address of a server: the port is missing at line 2 column 13",
            ),
            (
                "[\n  5\n]",
                "invalid type: integer `5`, expected the address of a server or an object at line 2 column 3",
            ),
            ("[{\"address\": \"a:1\", \"wait\": 1}]", "unknown field `wait`"),
            ("[{\"weight\": 1}]", "missing field `address`"),
            ("[{\"address\": \"a:1\", \"weight\": 0}]", "`weight` must be between 1 and 1000 at line 1"),
            ("[{\"address\": \"a:1\", \"weight\": 1001}]", "`weight` must be between 1 and 1000"),
            ("[{\"address\": \"a:1\", \"max_sessions\": 0}]", "`max_sessions` must be between 1 and 10000000"),
            ("[{\"address\": \"a:1\", \"weight\": -1}]", "invalid value: integer `-1`"),
            ("[\"a:1\", {\"address\": \"A:1\"}]", "the server \"a:1\" is listed twice at line 1"),
            (&many, "there are more than 1024 servers"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(error.contains(" at line "), "{error}");
        }
    }
}
