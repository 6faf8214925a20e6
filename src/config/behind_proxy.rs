//! Warns of listeners behind a proxy that would not see the addresses of their clients.

use super::diagnostic::{Diagnostic, Span};
use super::file::{Located, Section};
use super::keys::{self, Key};
use super::model::{ListenAddress, ListenerConfig};
use crate::policy::address::Addresses;
use crate::policy::limits::RateKey;
use crate::policy::peer::{Peer, PeerSet};
use crate::policy::quota::Quota;
use crate::policy::route::RouteConfig;

/// Warns of a list that no peer of its listener can match: `unix` alone for TCP, and only networks for a Unix socket.
/// The type of an inherited socket is not known yet.
pub(super) fn note_unmatched(
    section: &Section<'_>,
    address: &ListenAddress,
    proxy_protocol_from: &PeerSet,
    trusted_proxies: &PeerSet,
) {
    let warn = |key: &Key, label: &str, help: &str| {
        let span = section.key_span(key).unwrap_or_else(|| section.span());
        let message = format!("`{}` matches no peer of this listener", key.name);
        section.diagnostics.push(Diagnostic::warning(span, message).label(label).help(help));
    };
    let lists = [(&keys::PROXY_PROTOCOL_FROM, proxy_protocol_from), (&keys::TRUSTED_PROXIES, trusted_proxies)];
    for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        let has_unix = list.contains(Peer::Unix);
        match address {
            ListenAddress::Tcp(_) if !list.has_networks() => {
                warn(
                    key,
                    "the peers of a TCP listener have addresses",
                    "write the addresses or networks of the proxies",
                );
            }
            // A peer that sends a PROXY header gets the address in it.
            ListenAddress::Unix(_) if !has_unix && !proxy_protocol_from.contains(Peer::Unix) => {
                warn(key, "the peers of a Unix socket have no address", "write \"unix\"");
            }
            _ => {}
        }
    }
}

/// Warns of plain listeners that only a proxy is likely to use, and that do not learn the addresses of its clients,
/// although the configuration has rules about addresses.
pub(super) fn note_one_address(
    root: &Section<'_>,
    listeners: &[Located<ListenerConfig>],
    routes: &[RouteConfig],
    upgrade_quota: Option<Quota>,
) {
    let any = |rule: fn(&RouteConfig) -> bool| routes.iter().any(rule);
    let rules = [
        ("`upgrade_rate`", upgrade_quota.is_some()),
        ("`allow_addresses` or `deny_addresses`", any(|route| route.addresses != Addresses::default())),
        ("`sessions_per_address`", any(|route| route.limits.sessions_per_address.is_some())),
        ("`rate_key`", any(|route| route.limits.shared_key() == Some(RateKey::Address))),
    ];
    let rules: Vec<&str> = rules.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect();
    if rules.is_empty() {
        return;
    }
    for Located { value: listener, span } in listeners {
        let learns = !listener.proxy_protocol_from.is_empty() || !listener.trusted_proxies.is_empty();
        if listener.tls.is_none() && !learns && listener.address.is_private() == Some(true) {
            root.diagnostics.push(one_address(span.clone(), &rules.join(", ")));
        }
    }
}

fn one_address(span: Span, rules: &str) -> Diagnostic {
    Diagnostic::warning(span, "behind a proxy, all clients of this listener count as one address")
        .label(format!("in {rules}"))
        .help("name the proxy in `trusted_proxies` or `proxy_protocol_from`")
}
