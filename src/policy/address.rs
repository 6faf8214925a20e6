//! Which client addresses may open a session, and how addresses are grouped for counting.

use std::net::IpAddr;

use ipnet::IpNet;

/// The addresses that a route admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Empty: every address.
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl Addresses {
    /// With an empty `allow` every address that `deny` does not name passes; `deny` outweighs `allow`.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    /// Whether a client with this address may pass. An IPv4 address in IPv6 form counts as the IPv4 address.
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }
}

/// What counts as one client when addresses are counted: an IPv4 address, or the /64 of an IPv6 address, since whoever
/// has one address of a /64 has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey(IpAddr);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & (u128::MAX << 64)).into()),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}
