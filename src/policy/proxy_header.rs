//! Parses the header of the PROXY protocol, versions 1 and 2, by which a balancer names the client of a connection.
//!
//! The specification is `doc/proxy-protocol.txt` of `HAProxy`. The crates that parse it do not distinguish an
//! incomplete header from one that is malformed at its first byte, accept a malformed version 1, or reject a valid
//! `LOCAL`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::endpoints::{Endpoints, V2_START};

/// The longest header that is accepted, in bytes. The specification limits version 1 to 107 and version 2 to 65551. The
/// addresses of version 2 take up to 232 bytes, and the rest is for its TLVs: a client certificate is the largest.
pub const HEADER_MAX_BYTES: usize = 4096;

/// The number of bytes in which the start of any header is recognised.
pub const START_BYTES: usize = V2_START.len();

const V1_START: &[u8] = b"PROXY ";
const V1_MAX_BYTES: usize = 107;
const V2_FIXED_BYTES: usize = 16;
/// The length of the two addresses of Unix sockets.
const V2_UNIX_BYTES: usize = 216;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length, in bytes.
    pub len: usize,
    /// The ends of the client's connection to the balancer. `None` if the header contains no client address: the
    /// balancer itself connects, as for a health check, or the client has no IP address.
    pub endpoints: Option<Endpoints>,
}

/// A rule of the protocol that a header breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeaderError {
    /// The peer sent a header although it must not.
    Unexpected,
    /// The first bytes are not those of a header.
    NoHeader,
    /// The header is too long, or the line of version 1 has no end within its limit.
    TooLong,
    /// The line of version 1 does not end with CR LF.
    LineEnd,
    /// The line of version 1 has too few or too many fields.
    Fields,
    /// The version is neither 1 nor 2.
    Version,
    /// The command is neither `LOCAL` nor `PROXY`.
    Command,
    /// The protocol is not known, or is not a stream.
    Protocol,
    /// An address is not one of the protocol's family.
    Address,
    /// A port is not a number from 0 to 65535 without leading zeros.
    Port,
    /// The length of version 2 is too short for the addresses.
    Length,
}

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unexpected => "the connection begins with a PROXY header, which it must not have",
            Self::NoHeader => "the connection does not begin with a PROXY header",
            Self::TooLong => "the PROXY header is too long",
            Self::LineEnd => "the PROXY header does not end with CR LF",
            Self::Fields => "the PROXY header has a wrong number of fields",
            Self::Version => "the version of the PROXY header is neither 1 nor 2",
            Self::Command => "the command of the PROXY header is unknown",
            Self::Protocol => "the protocol in the PROXY header is unknown or not a stream",
            Self::Address => "an address in the PROXY header is not valid",
            Self::Port => "a port in the PROXY header is not valid",
            Self::Length => "the length of the PROXY header is too short for its addresses",
        })
    }
}

impl std::error::Error for ProxyHeaderError {}

impl ProxyHeader {
    /// Parses the header at the start of a connection. `None` means that it is not complete: then all of these bytes
    /// belong to it. Bytes behind the header are ignored.
    ///
    /// # Errors
    /// If the bytes cannot be the start of a header. They are judged as soon as they show it.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ProxyHeaderError> {
        let starts = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
        if starts(V1_START) {
            return if bytes.len() < V1_START.len() { Ok(None) } else { parse_v1(bytes) };
        }
        if !starts(V2_START) {
            return Err(ProxyHeaderError::NoHeader);
        }
        parse_v2(bytes)
    }
}

/// Whether bytes that are neither TLS nor HTTP are the start of a header. Of a header that is not complete, the first
/// [`START_BYTES`] suffice.
pub fn is_start(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_START) || bytes.starts_with(V2_START)
}

/// Parses `PROXY TCP4 SOURCE DESTINATION PORT PORT`, or `PROXY UNKNOWN` with anything behind it, and CR LF.
fn parse_v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let within = bytes.get(..V1_MAX_BYTES).unwrap_or(bytes);
    let Some(line_feed) = within.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_MAX_BYTES { Ok(None) } else { Err(ProxyHeaderError::TooLong) };
    };
    let line = within.get(..line_feed).and_then(|line| line.strip_suffix(b"\r")).ok_or(ProxyHeaderError::LineEnd)?;
    // All fields that are read are ASCII, so a replaced byte makes them invalid.
    let line = String::from_utf8_lossy(line);
    let mut fields = line.split(' ').skip(1);
    let endpoints = match fields.next() {
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(v1_endpoints::<Ipv4Addr>(fields)?),
        Some("TCP6") => Some(v1_endpoints::<Ipv6Addr>(fields)?),
        _ => return Err(ProxyHeaderError::Protocol),
    };
    Ok(Some(ProxyHeader { len: line_feed.saturating_add(1), endpoints }))
}

fn v1_endpoints<'a, A>(mut fields: impl Iterator<Item = &'a str>) -> Result<Endpoints, ProxyHeaderError>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut next = || fields.next().ok_or(ProxyHeaderError::Fields);
    let [source, destination, source_port, destination_port] = [next()?, next()?, next()?, next()?];
    if fields.next().is_some() {
        return Err(ProxyHeaderError::Fields);
    }
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| ProxyHeaderError::Address);
    let port = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_number).ok_or(ProxyHeaderError::Port)
    };
    let (source, destination) = (address(source)?, address(destination)?);
    let (source_port, destination_port) = (port(source_port)?, port(destination_port)?);
    Ok(Endpoints::new(SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port)))
}

/// Parses the binary form. Its TLVs are skipped.
fn parse_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let Some([version_and_command, family, high, low]) = bytes.get(V2_START.len()..V2_FIXED_BYTES) else {
        return Ok(None);
    };
    let len = V2_FIXED_BYTES.saturating_add(usize::from(u16::from_be_bytes([*high, *low])));
    if version_and_command >> 4 != 2 {
        return Err(ProxyHeaderError::Version);
    }
    let is_local = match version_and_command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(ProxyHeaderError::Command),
    };
    if len > HEADER_MAX_BYTES {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(body) = bytes.get(V2_FIXED_BYTES..len) else { return Ok(None) };
    // The receiver of `LOCAL` must ignore the family and the addresses.
    let endpoints = if is_local { None } else { v2_endpoints(*family, body)? };
    Ok(Some(ProxyHeader { len, endpoints }))
}

/// Returns the ends of TCP over IPv4 or IPv6; `None` for an unspecified protocol and for Unix sockets.
fn v2_endpoints(family: u8, body: &[u8]) -> Result<Option<Endpoints>, ProxyHeaderError> {
    match family {
        0x11 => v2_ends::<4, Ipv4Addr>(body).ok_or(ProxyHeaderError::Length).map(Some),
        0x21 => v2_ends::<16, Ipv6Addr>(body).ok_or(ProxyHeaderError::Length).map(Some),
        0x31 if body.len() < V2_UNIX_BYTES => Err(ProxyHeaderError::Length),
        0x00 | 0x31 => Ok(None),
        _ => Err(ProxyHeaderError::Protocol),
    }
}

/// Reads two addresses and two ports. `None` if the body is too short.
fn v2_ends<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(body: &[u8]) -> Option<Endpoints> {
    let (source, body) = body.split_first_chunk::<N>()?;
    let (destination, body) = body.split_first_chunk::<N>()?;
    let (source_port, body) = body.split_first_chunk()?;
    let end = |address: &[u8; N], port: &[u8; 2]| SocketAddr::new(A::from(*address).into(), u16::from_be_bytes(*port));
    Some(Endpoints::new(end(source, source_port), end(destination, body.first_chunk()?)))
}

#[cfg(test)]
mod tests;
