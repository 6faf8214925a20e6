//! The peers of a connection, and sets of them: balancers that send a PROXY header, and trusted proxies.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::address::to_canonical;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A host.
    Ip(IpAddr),
    /// A process of this machine, over a Unix socket.
    Unix,
}

impl Peer {
    /// Returns the peer with this address. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn of_address(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }

    /// Returns the address under which the peer is counted and logged. It is 127.0.0.1 for every client of a Unix
    /// socket.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Ip(address) => address,
            Self::Unix => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// A set of peers: networks, and the clients of Unix sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerSet {
    networks: Vec<IpNet>,
    unix: bool,
}

impl PeerSet {
    /// Creates a set. An IPv4-mapped IPv6 network counts as the IPv4 network.
    pub fn new(networks: Vec<IpNet>, unix: bool) -> Self {
        Self { networks: networks.into_iter().map(to_canonical).collect(), unix }
    }

    /// Whether the set contains no peer.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether the set contains peers that have an address.
    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Whether the set contains this peer.
    pub fn contains(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(address) => {
                let address = address.to_canonical();
                self.networks.iter().any(|network| network.contains(&address))
            }
            Peer::Unix => self.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::of_address(address.parse().unwrap())
    }

    #[test]
    fn a_set_contains_its_networks_and_unix_peers_if_it_names_them() {
        let set = PeerSet::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], false);
        for (address, contained) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("fd00::1", true), ("11.0.0.1", false), ("::1", false)]
        {
            assert_eq!(set.contains(peer(address)), contained, "{address}");
        }
        assert!(!set.contains(Peer::Unix) && PeerSet::new(Vec::new(), true).contains(Peer::Unix));
        let mapped = PeerSet::new(vec!["::ffff:10.0.0.0/104".parse().unwrap()], false);
        assert!(mapped.contains(peer("10.1.2.3")));
        // The address under which the clients of Unix sockets are counted is not a Unix peer.
        assert!(!PeerSet::new(Vec::new(), true).contains(Peer::Ip(Peer::Unix.address())));
    }

    #[test]
    fn a_default_set_is_empty() {
        assert!(PeerSet::default().is_empty() && !PeerSet::new(Vec::new(), true).is_empty());
        assert!(!PeerSet::default().contains(Peer::Unix) && !PeerSet::default().contains(peer("127.0.0.1")));
    }
}
