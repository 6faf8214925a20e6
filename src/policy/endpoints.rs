//! The ends of a client's connection, and the PROXY header that names them to a server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of a header of version 2.
pub(super) const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The version and the commands `LOCAL` and `PROXY`.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// The addresses of a client's connection, in canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// The client's end. The port is 0 if it is not known.
    pub source: SocketAddr,
    /// The end that the client connected to. It is the unspecified address with port 0 if it is not known.
    pub destination: SocketAddr,
}

impl Endpoints {
    /// Returns the ends of a connection. An IPv4-mapped IPv6 address becomes the IPv4 address.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self { source: canonical(source), destination: canonical(destination) }
    }

    /// Returns the ends of a connection from a client with this address, as a proxy names it. `own` are the ends of the
    /// proxy's own connection, which has the client's port only if it has the client's address.
    pub fn of_client(address: IpAddr, own: Option<Self>) -> Self {
        let unspecified: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let destination = own.map_or(SocketAddr::new(unspecified, 0), |own| own.destination);
        let same = own.filter(|own| own.source.ip() == address);
        Self { source: same.map_or(SocketAddr::new(address, 0), |own| own.source), destination }
    }
}

/// Returns the PROXY header, version 2, of a connection that is proxied for a client: `PROXY` with TCP over IPv4 if
/// both ends are IPv4, else with TCP over IPv6, where an IPv4 address is mapped.
///
/// `None` is a client that has no address or an unknown one: `LOCAL`, for which a server uses the addresses of its own
/// connection. The specification lets a server reject `PROXY` without addresses, as `HAProxy` 2.6 does.
pub fn proxy_header(endpoints: Option<Endpoints>) -> Vec<u8> {
    let mut header = V2_START.to_vec();
    let Some(Endpoints { source, destination }) = endpoints else {
        header.extend([V2_LOCAL, 0x00, 0, 0]);
        return header;
    };
    header.push(V2_PROXY);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([0x11, 0, 12]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        (source, destination) => {
            header.extend([0x21, 0, 36]);
            header.extend(mapped(source).octets());
            header.extend(mapped(destination).octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::super::proxy_header::ProxyHeader;
    use super::*;

    fn ends(source: &str, destination: &str) -> Endpoints {
        Endpoints::new(source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn headers_have_the_bytes_of_the_specification() {
        let v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x30\x39\x01\xbb";
        assert_eq!(proxy_header(Some(ends("192.0.2.7:12345", "198.51.100.1:443"))), v4);
        let mut v6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
        v6.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend([0x30, 0x39, 0x01, 0xbb]);
        assert_eq!(proxy_header(Some(ends("[2001:db8::7]:12345", "[2001:db8::1]:443"))), v6);
        assert_eq!(proxy_header(None), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    }

    #[test]
    fn a_header_parses_to_the_ends_that_it_names() {
        for (source, destination) in [
            ("192.0.2.7:12345", "198.51.100.1:443"),
            ("[2001:db8::7]:12345", "[2001:db8::1]:443"),
            ("192.0.2.7:0", "[2001:db8::1]:443"),
            ("[2001:db8::7]:1", "0.0.0.0:0"),
            ("[::ffff:192.0.2.7]:1", "[::ffff:198.51.100.1]:65535"),
        ] {
            let endpoints = Some(ends(source, destination));
            let header = proxy_header(endpoints);
            assert_eq!(ProxyHeader::parse(&header), Ok(Some(ProxyHeader { len: header.len(), endpoints })), "{source}");
        }
        assert_eq!(ProxyHeader::parse(&proxy_header(None)), Ok(Some(ProxyHeader { len: 16, endpoints: None })));
    }

    #[test]
    fn a_mapped_address_is_tcp_over_ipv4() {
        let mapped = ends("[::ffff:192.0.2.7]:1", "[::ffff:198.51.100.1]:2");
        assert_eq!(mapped, ends("192.0.2.7:1", "198.51.100.1:2"));
        assert_eq!(proxy_header(Some(mapped))[13..16], [0x11, 0, 12]);
    }

    #[test]
    fn a_client_that_a_proxy_names_has_a_port_only_if_it_is_the_peer() {
        let peer = ends("192.0.2.7:12345", "198.51.100.1:443");
        let own = Some(peer);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(Endpoints::of_client(address("192.0.2.7"), own), peer);
        assert_eq!(Endpoints::of_client(address("192.0.2.8"), own), ends("192.0.2.8:0", "198.51.100.1:443"));
        assert_eq!(Endpoints::of_client(address("2001:db8::7"), own), ends("[2001:db8::7]:0", "198.51.100.1:443"));
        assert_eq!(Endpoints::of_client(address("192.0.2.8"), None), ends("192.0.2.8:0", "0.0.0.0:0"));
        assert_eq!(Endpoints::of_client(address("2001:db8::7"), None), ends("[2001:db8::7]:0", "[::]:0"));
    }
}
