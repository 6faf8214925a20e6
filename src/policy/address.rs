//! The client addresses that a route admits, and the groups in which addresses are counted.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// The client addresses that a route admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Empty: all addresses.
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Addresses {
    /// Creates the two lists. `deny` outweighs `allow`. An empty `allow` admits every address outside `deny`. An
    /// IPv4-mapped IPv6 network counts as the IPv4 network.
    #[must_use]
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        let canonical = |nets: Vec<IpNet>| nets.into_iter().map(to_canonical).collect();
        Self { allow: canonical(allow), deny: canonical(deny) }
    }

    /// Whether a client with this address is admitted. An IPv4-mapped IPv6 address counts as the IPv4 address.
    #[must_use]
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }
}

/// Converts an IPv4-mapped network (`::ffff:10.0.0.0/104`) to its IPv4 network. Addresses are compared in canonical
/// form, so the mapped network would match nothing, and a `deny` of it would reject no client.
pub(super) fn to_canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped();
    let prefix = v6.prefix_len().checked_sub(MAPPED_PREFIX_BITS);
    match v4.zip(prefix).map(|(address, prefix)| Ipv4Net::new(address, prefix)) {
        Some(Ok(v4)) => IpNet::V4(v4),
        _ => net,
    }
}

/// The key by which client addresses are counted: an IPv4 address, or the /64 of an IPv6 address, since a host can use
/// every address of its /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "IpAddr")]
pub struct AddressKey(IpAddr);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & (u128::MAX << 64)).into()),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl AddressKey {
    /// Returns the address, or the first one of the /64.
    pub(super) fn network(self) -> IpAddr {
        self.0
    }

    /// Returns the /48 of an IPv6 address, `None` for an IPv4 address.
    pub(super) fn ipv6_48(&self) -> Option<u64> {
        let IpAddr::V6(v6) = self.0 else { return None };
        u64::try_from(u128::from(v6) >> 80).ok()
    }
}

/// The prefix length of `::ffff:0:0/96`, the IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2).
const MAPPED_PREFIX_BITS: u8 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(allow: &[&str], deny: &[&str]) -> Addresses {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Addresses::new(nets(allow), nets(deny))
    }

    fn check(addresses: &Addresses, expected: &[(&str, bool)]) {
        for (address, allowed) in expected {
            assert_eq!(addresses.allow(address.parse().unwrap()), *allowed, "{address}");
        }
    }

    fn key(address: &str) -> AddressKey {
        AddressKey::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn without_lists_every_address_is_admitted() {
        check(&Addresses::default(), &[("192.0.2.1", true), ("2001:db8::1", true), ("::ffff:192.0.2.1", true)]);
    }

    #[test]
    fn an_allow_list_admits_only_its_networks() {
        let listed = addresses(&["10.0.0.0/8", "2001:db8::/32"], &[]);
        check(
            &listed,
            &[
                ("10.255.0.1", true),
                ("11.0.0.1", false),
                ("2001:db8::1", true),
                ("2001:db9::1", false),
                ("::a00:1", false),
            ],
        );
    }

    #[test]
    fn a_deny_list_alone_admits_the_rest() {
        check(&addresses(&[], &["192.0.2.0/24"]), &[("192.0.2.7", false), ("192.0.3.7", true), ("::1", true)]);
    }

    #[test]
    fn deny_outweighs_allow() {
        // Neither the narrower network nor the first one wins: a denied address is rejected.
        check(&addresses(&["10.0.0.0/8"], &["10.1.0.0/16"]), &[("10.1.2.3", false), ("10.2.0.1", true)]);
        check(&addresses(&["10.1.2.3/32"], &["10.0.0.0/8"]), &[("10.1.2.3", false)]);
    }

    #[test]
    fn a_mapped_address_counts_as_its_ipv4_address() {
        check(&addresses(&[], &["192.0.2.0/24"]), &[("::ffff:192.0.2.7", false)]);
        check(&addresses(&["192.0.2.0/24"], &[]), &[("::ffff:192.0.2.7", true), ("::ffff:192.0.3.7", false)]);
        assert_eq!(key("::ffff:192.0.2.7"), key("192.0.2.7"));
    }

    #[test]
    fn a_mapped_network_counts_as_its_ipv4_network() {
        let denied = addresses(&[], &["::ffff:192.0.2.0/120"]);
        assert_eq!(denied, addresses(&[], &["192.0.2.0/24"]));
        check(&denied, &[("192.0.2.7", false), ("::ffff:192.0.2.7", false), ("192.0.3.7", true)]);
        check(&addresses(&["::ffff:0:0/96"], &[]), &[("203.0.113.9", true), ("2001:db8::1", false)]);
    }

    #[test]
    fn a_network_written_with_host_bits_is_the_whole_network() {
        check(&addresses(&["10.1.2.3/8"], &[]), &[("10.200.0.1", true)]);
    }

    #[test]
    fn ipv6_addresses_are_counted_by_64() {
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    }

    #[test]
    fn only_ipv6_addresses_have_a_48() {
        assert_eq!(key("2001:db8:7:1::1").ipv6_48(), Some(0x2001_0db8_0007));
        assert_eq!(key("2001:db8:7:ffff::").ipv6_48(), key("2001:db8:7::").ipv6_48());
        assert_ne!(key("2001:db8:7::").ipv6_48(), key("2001:db8:8::").ipv6_48());
        assert_eq!((key("192.0.2.1").ipv6_48(), key("::ffff:192.0.2.1").ipv6_48()), (None, None));
    }

    #[test]
    fn ipv4_addresses_are_counted_one_by_one() {
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_ne!(key("0.0.0.1"), key("::1"));
    }
}
