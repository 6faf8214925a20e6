//! Tables of headers, and properties that hold for each of them.

use super::*;

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// Returns a header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &len, body].concat()
}

fn v4_addresses() -> Vec<u8> {
    vec![192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb]
}

fn v6_addresses() -> Vec<u8> {
    let [source, destination] = ["2001:db8::7", "2001:db8::1"].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
    [&source[..], &destination, &[0x30, 0x39, 0x01, 0xbb]].concat()
}

/// Valid headers, and the client that each names.
fn valid() -> Vec<(Vec<u8>, Option<IpAddr>)> {
    let tlvs = [&v4_addresses()[..], &[0x04, 0, 3, 0, 0, 0], &[0x02, 0, 1, b'a'], &[0xee, 0, 0]].concat();
    let longest = [&v4_addresses()[..], &vec![0xff; HEADER_MAX_BYTES - V2_FIXED_BYTES - 12]].concat();
    let text = |line: &str| line.as_bytes().to_vec();
    let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0; 20]].concat();
    vec![
        (text("PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n"), address("192.0.2.7")),
        (text("PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n"), address("255.255.255.255")),
        (text("PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n"), address("2001:db8::7")),
        (text("PROXY TCP6 ::ffff:192.0.2.7 ::1 12345 443\r\n"), address("192.0.2.7")),
        (text("PROXY UNKNOWN\r\n"), None),
        (text("PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n"), None),
        (text("PROXY UNKNOWN anything at all,  \"with\" spaces\r\n"), None),
        (text(&format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_MAX_BYTES - 16))), None),
        (v2(0x21, 0x11, &v4_addresses()), address("192.0.2.7")),
        (v2(0x21, 0x21, &v6_addresses()), address("2001:db8::7")),
        (v2(0x21, 0x21, &mapped), address("192.0.2.7")),
        (v2(0x21, 0x11, &tlvs), address("192.0.2.7")),
        (v2(0x21, 0x11, &longest), address("192.0.2.7")),
        (v2(0x21, 0x31, &[b'x'; 216]), None),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x00, b"ignored"), None),
        (v2(0x20, 0x00, &[]), None),
        // The addresses of `LOCAL` are ignored with any family.
        (v2(0x20, 0x11, &v4_addresses()), None),
        (v2(0x20, 0x11, &[]), None),
        (v2(0x20, 0xff, b"ignored"), None),
    ]
}

#[test]
fn a_header_names_the_client_and_ends_where_the_connection_begins() {
    for (header, client) in valid() {
        for behind in [&b""[..], b"\x16\x03\x01", b"\r\n\r\n\0\r\nQUIT\n", b"PROXY UNKNOWN\r\n"] {
            let parsed = ProxyHeader::parse(&[&header, behind].concat()).unwrap().unwrap();
            let named = parsed.endpoints.map(|endpoints| endpoints.source.ip());
            assert_eq!((parsed.len, named), (header.len(), client), "{}", header.escape_ascii());
        }
    }
}

#[test]
fn a_header_names_both_ends_with_their_ports() {
    let v4 = Endpoints::new("192.0.2.7:12345".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
    let v6 = Endpoints::new("[2001:db8::7]:12345".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
    for (header, endpoints) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n".to_vec(), v4),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(), v6),
        (v2(0x21, 0x11, &v4_addresses()), v4),
        (v2(0x21, 0x21, &v6_addresses()), v6),
    ] {
        let parsed = ProxyHeader::parse(&header).unwrap().unwrap();
        assert_eq!(parsed.endpoints, Some(endpoints), "{}", header.escape_ascii());
    }
}

#[test]
fn every_part_of_a_header_is_incomplete() {
    for (header, _) in valid() {
        for len in 0..header.len() {
            assert_eq!(ProxyHeader::parse(&header[..len]), Ok(None), "{}", header[..len].escape_ascii());
        }
    }
}

#[test]
fn a_malformed_header_is_rejected_by_the_rule_that_it_breaks() {
    use ProxyHeaderError::{Address, Command, Fields, Length, LineEnd, NoHeader, Port, Protocol, TooLong, Version};
    let long = HEADER_MAX_BYTES - V2_FIXED_BYTES + 1;
    let table: Vec<(Vec<u8>, ProxyHeaderError)> = vec![
        (b"\x16\x03\x01\x02\x00".to_vec(), NoHeader),
        (b"GET / HTTP/1.1\r\n".to_vec(), NoHeader),
        (b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(), NoHeader),
        (b"PROXYTCP4".to_vec(), NoHeader),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), NoHeader),
        (b" ".to_vec(), NoHeader),
        (b"PROXY \r\n".to_vec(), Protocol),
        (b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(), Protocol),
        (b"PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(), Protocol),
        (b"PROXY UNKNOWNX\r\n".to_vec(), Protocol),
        (b"PROXY TCP4\r\n".to_vec(), Fields),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n".to_vec(), Fields),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n".to_vec(), Fields),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n".to_vec(), Fields),
        (b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n".to_vec(), Fields),
        (b"PROXY TCP4 2001:db8::7 198.51.100.1 1 2\r\n".to_vec(), Address),
        (b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(), Address),
        (b"PROXY TCP4 192.0.2.007 198.51.100.1 1 2\r\n".to_vec(), Address),
        (b"PROXY TCP4 192.0.2.7 host 1 2\r\n".to_vec(), Address),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n".to_vec(), Address),
        (b"PROXY TCP4 192.0.2.\xff 198.51.100.1 1 2\r\n".to_vec(), Address),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n".to_vec(), Port),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 +2\r\n".to_vec(), Port),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n".to_vec(), Port),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 -1\r\n".to_vec(), Port),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\r\n".to_vec(), Port),
        (b"PROXY UNKNOWN\n".to_vec(), LineEnd),
        (format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_MAX_BYTES - 15)).into_bytes(), TooLong),
        (format!("PROXY UNKNOWN {}", "f".repeat(V1_MAX_BYTES)).into_bytes(), TooLong),
        (v2(0x11, 0x11, &v4_addresses()), Version),
        (v2(0x31, 0x11, &v4_addresses()), Version),
        (v2(0x22, 0x11, &v4_addresses()), Command),
        (v2(0x21, 0x12, &v4_addresses()), Protocol),
        (v2(0x21, 0x10, &v4_addresses()), Protocol),
        (v2(0x21, 0x41, &v4_addresses()), Protocol),
        (v2(0x21, 0x01, &[]), Protocol),
        (v2(0x21, 0x11, &v4_addresses()[..11]), Length),
        (v2(0x21, 0x21, &v6_addresses()[..35]), Length),
        (v2(0x21, 0x31, &[0; 215]), Length),
        (v2(0x21, 0x11, &vec![0; long]), TooLong),
        // Its length alone is enough.
        (v2(0x20, 0x00, &vec![0; long])[..V2_FIXED_BYTES].to_vec(), TooLong),
    ];
    for (bytes, error) in table {
        assert_eq!(ProxyHeader::parse(&bytes), Err(error), "{}", bytes.escape_ascii());
        // More bytes do not make it valid.
        assert_eq!(ProxyHeader::parse(&[&bytes[..], b"\r\n"].concat()), Err(error), "{}", bytes.escape_ascii());
    }
}

#[test]
fn the_start_of_a_header_is_recognised_in_its_first_bytes() {
    let v2 = b"\r\n\r\n\0\r\nQUIT\n";
    for (bytes, expected) in [
        (&b"PROXY "[..], true),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", true),
        (v2, true),
        (b"PROXY", false),
        (b"PROXY-LIKE / HTTP/1.1\r\n", false),
        (&v2[..11], false),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", false),
        (b"\x16\x03\x01", false),
        (b"", false),
    ] {
        assert_eq!(is_start(&bytes[..bytes.len().min(START_BYTES)]), expected, "{bytes:?}");
    }
}
