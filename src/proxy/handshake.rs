//! The TLS handshake. rustls does it; what is here sees to it that the connection can leave rustls right after.
//!
//! rustls drops what it has read and not opened when its secrets are taken out, so it is given one record at a time: what
//! follows the client's `Finished` stays in the kernel. The price is a `recv` for the header and one for the body of each
//! of the three records that a client sends.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ConnectionTrafficSecrets, KeyLog, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use zeroize::Zeroizing;

use super::sealed::SealedStream;
use crate::record::{HEADER_LEN, Opener, Sealer, Suite, TrafficSecret};

/// How many bytes of a session's output rustls may hold back; the relay counts on it as a part of its bound.
const BUFFER_MAX_BYTES: usize = 32 * 1024;

/// What protects a connection after its handshake.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one, which costs a box less")]
pub(super) enum Protected {
    /// Our own record layer.
    Own(SealedStream),
    /// rustls, because it is TLS 1.2 or the settings say so; its state is several times as large.
    Rustls(Box<TlsStream<Socket>>),
}

/// Prepares a listener's settings for connections that leave rustls.
pub(super) fn let_secrets_out(config: &mut ServerConfig) {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(Capture);
}

/// Does the handshake.
///
/// # Errors
/// If the client breaks off, or the two cannot agree.
pub(super) async fn accept(config: &Arc<ServerConfig>, stream: TcpStream) -> io::Result<Protected> {
    let leaves = config.enable_secret_extraction;
    let socket = Socket { stream, written: 0, framing: leaves.then(Framing::default) };
    let limit = |connection: &mut ServerConnection| connection.set_buffer_limit(Some(BUFFER_MAX_BYTES));
    let mut accept = TlsAcceptor::from(Arc::clone(config)).accept_with(socket, limit);
    let mut secrets = Secrets::default();
    let mut stream = poll_fn(|cx| poll_record_by_record(&mut accept, &mut secrets, cx)).await?;
    let (socket, connection) = stream.get_mut();
    socket.framing = None;
    if leaves && connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        // Everything that rustls had to say has been sent, its tickets, too: that is when a handshake is done.
        let (socket, connection) = stream.into_inner();
        take_over(socket, connection, &secrets).map(Protected::Own)
    } else {
        Ok(Protected::Rustls(Box::new(stream)))
    }
}

/// Goes on for as long as the handshake wants another record and the socket has one.
fn poll_record_by_record(
    accept: &mut Accept<Socket>,
    secrets: &mut Secrets,
    cx: &mut Context<'_>,
) -> Poll<io::Result<TlsStream<Socket>>> {
    loop {
        if let Some(framing) = accept.get_mut().and_then(|socket| socket.framing.as_mut()) {
            framing.granted = true;
            framing.refused = false;
        }
        // Within this call rustls serves this connection and no other, so what it logs is this connection's.
        CAPTURED.set(Some(mem::take(secrets)));
        let polled = Pin::new(&mut *accept).poll(cx);
        *secrets = CAPTURED.take().unwrap_or_default();
        let refused =
            accept.get_mut().and_then(|socket| socket.framing.as_ref()).is_some_and(|framing| framing.refused);
        if polled.is_ready() || !refused {
            return polled;
        }
    }
}

/// Takes the connection from rustls, which has done with it.
fn take_over(socket: Socket, connection: ServerConnection, secrets: &Secrets) -> io::Result<SealedStream> {
    let suite = connection.negotiated_cipher_suite().and_then(|suite| Suite::from_code(suite.suite().into()));
    let suite = suite.ok_or_else(|| io::Error::other("an unknown cipher suite was negotiated"))?;
    let extracted = connection.dangerous_extract_secrets().map_err(io::Error::other)?;
    let direction = |secret: &[u8], keys: &ConnectionTrafficSecrets| {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = keys
        else {
            return None;
        };
        // A secret that is not the one in use would be another connection's, and must never be used.
        TrafficSecret::new(suite, secret).filter(|secret| secret.gives(key.as_ref(), iv.as_ref()))
    };
    let directions = direction(&secrets.client, &extracted.rx.1).zip(direction(&secrets.server, &extracted.tx.1));
    let (read, write) = directions.ok_or_else(|| io::Error::other("the traffic secrets are not the connection's"))?;
    let (opener, sealer) = (Opener::new(read, extracted.rx.0), Sealer::new(write, extracted.tx.0));
    Ok(SealedStream::new(socket.stream, opener, sealer))
}

/// The traffic secrets of a connection.
#[derive(Default)]
struct Secrets {
    client: Zeroizing<Vec<u8>>,
    server: Zeroizing<Vec<u8>>,
}

thread_local! {
    /// The secrets of the connection whose handshake this thread is at; nothing outside of that.
    static CAPTURED: Cell<Option<Secrets>> = const { Cell::new(None) };
}

/// Keeps the two secrets that [`rustls::ExtractedSecrets`] does not tell: only with them can keys be updated later.
#[derive(Debug)]
struct Capture;

impl KeyLog for Capture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let Some(mut secrets) = CAPTURED.take() else { return };
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => secrets.client = Zeroizing::new(secret.to_vec()),
            "SERVER_TRAFFIC_SECRET_0" => secrets.server = Zeroizing::new(secret.to_vec()),
            _ => {}
        }
        CAPTURED.set(Some(secrets));
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}

/// A socket that counts what the kernel takes, since rustls buffers, so that its own writes do not show whether a client
/// reads; and that gives one record at a time while a handshake goes on.
pub(super) struct Socket {
    stream: TcpStream,
    pub(super) written: u64,
    framing: Option<Framing>,
}

/// Where in the client's records the reading is.
#[derive(Debug, Default)]
struct Framing {
    /// What has come of a header.
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// What is still to come of the body.
    body: usize,
    /// A record may be read; used up by its last byte.
    granted: bool,
    /// A record was asked for beyond that.
    refused: bool,
}

impl Framing {
    /// How much may be read: up to the end of the header, or of the body.
    fn wants(&self) -> usize {
        if self.body > 0 { self.body } else { HEADER_LEN - self.header_len }
    }

    /// Notes what was read.
    fn pass(&mut self, bytes: &[u8]) {
        if self.body > 0 {
            self.body = self.body.saturating_sub(bytes.len());
        } else {
            for (to, from) in self.header.iter_mut().skip(self.header_len).zip(bytes) {
                *to = *from;
            }
            self.header_len += bytes.len();
            if self.header_len < HEADER_LEN {
                return;
            }
            let [_, _, _, high, low] = self.header;
            self.body = usize::from(u16::from_be_bytes([high, low]));
            self.header_len = 0;
        }
        if self.body == 0 {
            self.granted = false;
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, framing, .. } = self.get_mut();
        let Some(framing) = framing else { return Pin::new(stream).poll_read(cx, buf) };
        if !framing.granted {
            // Nobody is woken for this: who grants asks again at once.
            framing.refused = true;
            return Poll::Pending;
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(framing.wants().min(buf.remaining())));
        ready!(Pin::new(stream).poll_read(cx, &mut part))?;
        framing.pass(part.filled());
        let n = part.filled().len();
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    fn count(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &result {
            self.written += *n as u64;
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(result)
    }

    /// Several records at once: what rustls says last of all is an alert behind its own hello, and it says that in one
    /// write or not at all.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("stream", &self.stream).field("written", &self.written).finish_non_exhaustive()
    }
}
