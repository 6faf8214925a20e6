//! Reads the PROXY header of a connection, and counts the connection under the client that it names.

use std::io;
use std::time::Instant;

use tokio::time::timeout_at;

use super::accept::after_drain;
use super::connection_config::ConnectionConfig;
use super::gateway::Gateway;
use crate::policy::endpoints::Endpoints;
use crate::policy::peer::Peer;
use crate::policy::proxy_header::{HEADER_MAX_BYTES, ProxyHeader};
use crate::runtime::clock;
use crate::runtime::pending_limit::PendingSlot;
use crate::runtime::socket::SocketStream;

/// The size of a peek. Nearly all headers are shorter.
const PEEK_BYTES: usize = 256;

/// Reads the PROXY header if the connection has to have one. Returns the peer that the header names, the ends of its
/// connection, and the slot of the connection. Returns `None` for a connection that closes: without a valid header in
/// time, or because too many connections of its client are queued.
///
/// A header that names no client leaves the peer as it is, and without a header the ends are those of the socket.
pub async fn identify(
    gateway: &Gateway,
    config: &ConnectionConfig,
    stream: &SocketStream,
    peer: Peer,
    slot: PendingSlot,
    deadline: Instant,
) -> Option<(Peer, Option<Endpoints>, PendingSlot)> {
    let own = || stream.addresses().map(|(source, destination)| Endpoints::new(source, destination));
    let PendingSlot::Unidentified(connection) = slot else { return Some((peer, own(), slot)) };
    let read = tokio::select! {
        () = gateway.process.lifecycle.aborted() => return None,
        () = after_drain(&gateway.process.lifecycle) => return None,
        read = timeout_at(deadline.into(), read_header(stream)) => read,
    };
    let (identities, now) = (gateway.process.sessions.identities(), clock::now());
    let named = match read.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "not in time"))) {
        Ok(named) => named,
        // A health check may only connect.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(client = identities.address(peer.address()), "closed without a PROXY header");
            return None;
        }
        Err(error) => {
            gateway.rejections.log_no_proxy_header(peer.address(), &config.listener, &error, identities, now);
            return None;
        }
    };
    let peer = named.map_or(peer, |named| Peer::Ip(named.source.ip()));
    let slot = gateway.pending_limit.identify(connection, config.counted(peer));
    if slot.is_none() {
        gateway.rejections.log_connection_closed(peer.address(), identities, now);
    }
    slot.map(|slot| (peer, named.or_else(own), slot))
}

/// Reads the header, and no byte behind it. Bytes are read only once they are known to belong to the header. Returns
/// the ends of the connection that it names.
async fn read_header(stream: &SocketStream) -> io::Result<Option<Endpoints>> {
    let mut header = Vec::new();
    loop {
        let start = header.len();
        header.resize(start.saturating_add(PEEK_BYTES).min(HEADER_MAX_BYTES), 0);
        let received = stream.peek(header.get_mut(start..).unwrap_or_default()).await?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        header.truncate(start.saturating_add(received));
        let parsed = ProxyHeader::parse(&header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let end = parsed.map_or(header.len(), |parsed| parsed.len);
        stream.discard(header.get_mut(start..end).unwrap_or_default()).await?;
        if let Some(parsed) = parsed {
            return Ok(parsed.endpoints);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    /// Sends these parts, and returns the result and the bytes that are left for the connection.
    fn read(parts: &[&[u8]]) -> (io::Result<Option<Endpoints>>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut near = SocketStream::from(near);
            let sending = async move {
                for part in parts {
                    far.write_all(part).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (read, ()) = tokio::join!(read_header(&near), sending);
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
            (read, rest)
        })
    }

    #[test]
    fn no_byte_behind_the_header_is_read_wherever_it_is_split() {
        let tlvs = [&[192, 0, 2, 7, 10, 0, 0, 1, 0, 1, 0, 2][..], &[0xee; 1_000]].concat();
        let len = u16::try_from(tlvs.len()).unwrap().to_be_bytes();
        let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &len, &tlvs].concat();
        let named = Endpoints::new("192.0.2.7:1".parse().unwrap(), "10.0.0.1:2".parse().unwrap());
        for header in [&b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n"[..], &v2] {
            let bytes = [header, b"\x16\x03\x01 and more"].concat();
            for at in [1, 5, 12, 15, 16, 17, header.len() - 1, header.len(), header.len() + 1] {
                let (client, rest) = read(&[&bytes[..at], &bytes[at..]]);
                assert_eq!(client.unwrap(), Some(named), "{at}");
                assert_eq!(rest, b"\x16\x03\x01 and more", "{at}");
            }
            let every_byte: Vec<&[u8]> = bytes.chunks(1).collect();
            let (client, rest) = read(&every_byte);
            assert_eq!((client.unwrap().is_some(), rest.as_slice()), (true, &b"\x16\x03\x01 and more"[..]));
        }
    }

    #[test]
    fn an_end_and_a_malformed_header_are_different_errors() {
        assert_eq!(read(&[]).0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[b"PROXY TCP4"]).0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let error = read(&[b"\x16\x03\x01"]).0.unwrap_err();
        assert_eq!(error.to_string(), "the connection does not begin with a PROXY header");
    }
}
