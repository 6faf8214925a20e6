//! A client's TLS 1.3 connection under our own record layer, after rustls has completed the handshake.
//!
//! An idle stream does not own a buffer. Received records are opened in the reader's buffer, many per `recv`. A write
//! is sealed from the writer's bytes into a buffer of the thread and sent with one `send`.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::record::{
    Alert, Content, ContentType, Opened, Opener, OpenerState, RECORD_MAX, SealError, Sealed, Sealer, SealerState,
    Violation,
};
use crate::runtime::socket::SocketStream;

/// Limits on the records that one read opens, and on the key updates among them. A record costs up to a microsecond and
/// a key update seven, so a read of many small records would delay the other sessions of the thread.
const RECORDS_AT_ONCE: usize = 256;
const KEY_UPDATES_AT_ONCE: u8 = 8;
/// The plaintext that one write seals, in bytes; without a `KeyUpdate` up to five more fit. If the kernel does not take
/// the records at once, the stream keeps no more than those.
const BATCH_BYTES: usize = 64 * 1024;

thread_local! {
    /// The buffer for a reader whose own is too small for a record: the reader of the request head.
    static OPENING: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECORD_MAX].into_boxed_slice());
    static SEALING: RefCell<Box<[u8]>> = RefCell::new(vec![0; Sealer::sealed_max(BATCH_BYTES)].into_boxed_slice());
}

/// The stream. An end without `close_notify` is an error (RFC 8446 section 6.1).
pub struct SealedStream {
    stream: SocketStream,
    opener: Opener,
    sealer: Sealer,
    /// Received bytes that have not been opened: whole records that a read left over, then the start of a record. No
    /// longer than the longest buffer that a reader passed.
    received: Vec<u8>,
    /// Whether `received` may contain whole records, which are opened before more is received.
    left_over: bool,
    /// Opened bytes that did not fit into the reader's buffer: less than [`RECORD_MAX`].
    plain: Vec<u8>,
    /// Records that the kernel has not taken: at most one batch, an alert, and at first the ticket.
    out: Vec<u8>,
    /// Whether `out` waits for the first write, to be sent together with it.
    flush_deferred: bool,
    /// Bytes of `out` that the kernel has taken; four bytes, since every session has this field.
    out_taken: u32,
    written: u64,
}

/// The bytes that a handshake leaves for the stream after it.
#[derive(Default)]
pub struct Leftover {
    /// Bytes received after the client's last handshake message: less than [`RECORD_MAX`].
    pub received: Vec<u8>,
    /// Records that are not urgent: the ticket.
    pub to_send: Vec<u8>,
}

/// The state of a stream without its socket, as plain data. It contains both traffic secrets, and cannot seal.
#[derive(Serialize, Deserialize)]
pub struct SealedState {
    opener: OpenerState,
    sealer: SealerState,
    received: Vec<u8>,
    left_over: bool,
    plain: Vec<u8>,
    out: Vec<u8>,
    flush_deferred: bool,
    written: u64,
}

impl SealedState {
    /// Continues the stream on its socket. Returns `None` if the state is not valid.
    pub(super) fn into_stream(self, stream: SocketStream) -> Option<SealedStream> {
        let Self { opener, sealer, received, left_over, plain, out, flush_deferred, written } = self;
        Some(SealedStream {
            stream,
            opener: opener.into_opener()?,
            sealer: sealer.into_sealer()?,
            received,
            left_over,
            plain,
            out,
            flush_deferred,
            out_taken: 0,
            written,
        })
    }
}

impl fmt::Debug for SealedState {
    /// Omits the buffered bytes, which are data of the client.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedState").field("written", &self.written).finish_non_exhaustive()
    }
}

impl SealedStream {
    /// Returns the socket, and the state with which another process can continue the stream.
    pub fn into_parts(self) -> (SocketStream, SealedState) {
        let Self { stream, opener, sealer, received, left_over, plain, mut out, flush_deferred, out_taken, written } =
            self;
        out.drain(..(out_taken as usize).min(out.len()));
        let (opener, sealer) = (opener.into_state(), sealer.into_state());
        (stream, SealedState { opener, sealer, received, left_over, plain, out, flush_deferred, written })
    }

    /// Takes over a connection after its handshake.
    pub fn new(stream: SocketStream, opener: Opener, sealer: Sealer, leftover: Leftover) -> Self {
        let Leftover { received, to_send } = leftover;
        Self {
            stream,
            opener,
            sealer,
            left_over: !received.is_empty(),
            received,
            plain: Vec::new(),
            flush_deferred: !to_send.is_empty(),
            out: to_send,
            out_taken: 0,
            written: 0,
        }
    }

    /// Returns the number of bytes that the kernel has taken.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether there are records that the kernel has not taken.
    pub fn holds_back(&self) -> bool {
        !self.out.is_empty()
    }

    /// Drops the state that can be derived again, for an idle connection. Its next record takes some microseconds
    /// longer.
    pub fn hibernate(&mut self) {
        self.opener.hibernate();
        self.sealer.hibernate();
    }

    /// Returns the number of key updates since the last call.
    pub fn take_key_updates(&mut self) -> u8 {
        self.opener.take_key_updates()
    }

    /// Returns the underlying socket.
    pub fn socket(&self) -> &SocketStream {
        &self.stream
    }

    /// Receives until there is plaintext, and returns its length. The plaintext is at the start of `area`, which must
    /// be long enough for a record. A length of 0 is the end of the stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>, area: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.opener.ended() {
                None => {}
                Some(Ok(())) => return Poll::Ready(Ok(0)),
                Some(Err(violation)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation))),
            }
            // The bytes left over by an earlier read with a larger buffer may not fit into this one.
            let held = self.received.len().min(area.len());
            let (front, room) = area.split_at_mut(held);
            front.copy_from_slice(self.received.get(..held).unwrap_or_default());
            let mut room = ReadBuf::new(room);
            if !mem::take(&mut self.left_over) {
                // A `recv` that does not fill the buffer is the last one until the kernel reports the socket as
                // readable again. This saves the `recv` that would only return `EAGAIN`.
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
                if room.filled().is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            let received = room.filled().len();
            let beyond = self.received.split_off(held);
            let opened = self.open(cx, area.get_mut(..held + received).unwrap_or_default());
            self.left_over |= !beyond.is_empty();
            self.received.extend_from_slice(&beyond);
            // Otherwise the rest of many records would keep the capacity of them all while the session is idle.
            self.received.shrink_to(self.received.len() * 2);
            if opened > 0 {
                return Poll::Ready(Ok(opened));
            }
        }
    }

    /// Opens whole records, up to the limits of one read, moves their plaintext to the start of `records`, and keeps
    /// the rest. Returns the length of the plaintext.
    fn open(&mut self, cx: &mut Context<'_>, records: &mut [u8]) -> usize {
        let (mut at, mut plain, mut count) = (0, 0, 0);
        let key_updates_max = self.opener.key_updates().saturating_add(KEY_UPDATES_AT_ONCE);
        self.received.clear();
        loop {
            let rest = records.get_mut(at..).unwrap_or_default();
            if count == RECORDS_AT_ONCE || self.opener.key_updates() >= key_updates_max {
                self.left_over = !rest.is_empty();
                self.received.extend_from_slice(rest);
                break;
            }
            count += 1;
            match self.opener.open(rest) {
                Ok(None) => {
                    self.received.extend_from_slice(rest);
                    break;
                }
                Ok(Some(Opened { len, content })) => {
                    match content {
                        Content::Data(range) => {
                            records.copy_within(at + range.start..at + range.end, plain);
                            plain += range.len();
                        }
                        Content::Nothing => {}
                        Content::KeyUpdateRequested => self.sealer.update_key(),
                        Content::Closed => break,
                    }
                    at += len;
                }
                Err(violation) => {
                    self.send_alert(violation, cx);
                    break;
                }
            }
        }
        plain
    }

    /// Sends the alert for a violation. The next read returns the violation itself.
    fn send_alert(&mut self, violation: Violation, cx: &mut Context<'_>) {
        let Some(alert) = violation.alert() else { return self.sealer.close() };
        if self.queue(alert).is_ok() {
            // The connection has failed anyway, so an error in sending the alert is ignored.
            let _ = self.poll_out(cx);
        }
    }

    fn queue(&mut self, alert: Alert) -> Result<(), SealError> {
        let mut record = [0; Sealer::sealed_max(2)];
        let len = self.sealer.alert(alert, &mut record)?;
        self.out.extend_from_slice(record.get(..len).unwrap_or_default());
        Ok(())
    }

    /// Writes the pending records to the kernel, and frees their buffer once all are taken.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush_deferred = false;
        while let Some(rest) = self.out.get(self.out_taken as usize..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    self.out_taken = self.out_taken.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                    self.written += n as u64;
                }
            }
        }
        self.out_taken = 0;
        self.out = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Seals a batch and sends it. Returns the length of the sealed plaintext, whether or not the kernel took its
    /// records.
    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8], area: &mut [u8]) -> io::Result<usize> {
        let Sealed { taken, written } =
            self.sealer.seal(ContentType::ApplicationData, bytes, area).map_err(|error| match error {
                SealError::Closed => io::ErrorKind::BrokenPipe.into(),
                SealError::Failed => io::Error::other("the TLS record layer failed"),
            })?;
        let records = area.get(..written).unwrap_or_default();
        if !self.out.is_empty() {
            self.out.extend_from_slice(records);
            if let Poll::Ready(Err(error)) = self.poll_out(cx) {
                self.sealer.close();
                return Err(error);
            }
            return Ok(taken);
        }
        let sent = match Pin::new(&mut self.stream).poll_write(cx, records) {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(error)) => {
                // These records are lost, so the client could not open any later one.
                self.sealer.close();
                return Err(error);
            }
            Poll::Pending => 0,
        };
        self.written += sent as u64;
        self.out.extend_from_slice(records.get(sent..).unwrap_or_default());
        Ok(taken)
    }
}

impl AsyncRead for SealedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.plain.is_empty() {
            let n = buf.remaining().min(self.plain.len());
            buf.put_slice(self.plain.get(..n).unwrap_or_default());
            self.plain.drain(..n);
            if self.plain.is_empty() {
                self.plain = Vec::new();
            }
        } else if buf.remaining() >= RECORD_MAX {
            let opened = ready!(self.poll_receive(cx, buf.initialize_unfilled()))?;
            buf.advance(opened);
        } else if buf.remaining() > 0 {
            return OPENING.with_borrow_mut(|area| {
                let opened = ready!(self.poll_receive(cx, area))?;
                let opened = area.get(..opened).unwrap_or_default();
                let (now, later) = opened.split_at(buf.remaining().min(opened.len()));
                buf.put_slice(now);
                self.plain = later.to_vec();
                Poll::Ready(Ok(()))
            });
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SealedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Seal no more while records are pending, so that the writer notices a client that does not read.
        if !self.flush_deferred {
            ready!(self.poll_out(cx))?;
        }
        Poll::Ready(SEALING.with_borrow_mut(|area| self.send(cx, bytes, area)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flush_deferred { Poll::Ready(Ok(())) } else { self.poll_out(cx) }
    }

    /// Sends `close_notify` and closes the sending half. The receiving half stays open.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.sealer.is_closed() && self.queue(Alert::CloseNotify).is_err() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for SealedStream {
    /// Omits the buffered bytes, which are data of the client.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedStream")
            .field("stream", &self.stream)
            .field("opener", &self.opener)
            .field("sealer", &self.sealer)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
