//! Reads lists of addresses and networks, and tells private addresses from public ones.

use std::net::IpAddr;

use ipnet::IpNet;

use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::keys::Key;
use crate::policy::peer::PeerSet;

const NETWORKS_MAX: usize = 1024;
const FORM: &str = "expected an IP address or a network";
/// The entry for the peers of Unix sockets.
const UNIX: &str = "unix";

/// Whether only this machine or private networks reach an address.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Reads a list of networks.
pub(super) fn networks(section: &Section<'_>, key: &Key) -> Option<Vec<IpNet>> {
    read(section, key, |text| network(text, FORM))
}

/// Reads a list of networks that may contain `unix`. Warns of a network that contains every address.
pub(super) fn peers(section: &Section<'_>, key: &Key) -> Option<PeerSet> {
    let entries = read(section, key, |text| {
        if text == UNIX {
            return Ok(None);
        }
        network(text, "expected an IP address, a network or \"unix\"").map(Some)
    })?;
    let all = entries.iter().flatten().find(|network| network.prefix_len() == 0);
    if let (Some(all), Some(span)) = (all, section.key_span(key)) {
        section.diagnostics.push(
            Diagnostic::warning(span, format!("`{}` contains every address", key.name))
                .label(format!("{all}: a client that connects directly can claim any address")),
        );
    }
    let unix = entries.contains(&None);
    Some(PeerSet::new(entries.into_iter().flatten().collect(), unix))
}

/// Reads a list of texts. The error of `parse` is the label at the caret and the help text.
fn read<T>(
    section: &Section<'_>,
    key: &Key,
    parse: impl Fn(&str) -> Result<T, (&'static str, String)>,
) -> Option<Vec<T>> {
    let texts = section.texts(key, NETWORKS_MAX)?;
    let read = |text: &Located<String>| {
        let note = |(label, help): (&str, String)| {
            let message = format!("{} is not an address or network", quote(text));
            section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(label).help(help));
        };
        parse(text).map_err(note).ok()
    };
    let read: Vec<_> = texts.value.iter().map(read).collect();
    read.into_iter().collect()
}

/// Parses an address or a network. The error is the label at the caret and the help text.
fn network(text: &str, form: &'static str) -> Result<IpNet, (&'static str, String)> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network =
        network.map_err(|_| (form, "write it as in \"192.0.2.7\", \"10.0.0.0/8\" or \"fd00::/8\"".to_owned()))?;
    if let IpNet::V6(v6) = network
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err((
            "an IPv4 address in IPv6 form",
            "write the IPv4 address: client addresses are compared in IPv4 form".to_owned(),
        ));
    }
    if network.trunc() != network {
        return Err(("bits are set beyond the prefix", format!("write \"{}\"", network.trunc())));
    }
    Ok(network)
}
