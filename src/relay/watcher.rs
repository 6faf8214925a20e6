//! Reports the frames of one session to an operator: headers and, if permitted, the first bytes of payloads.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::sync::mpsc;

use crate::session::Side;
use crate::ws::frame::{HEADER_MAX_BYTES, Header, Opcode, apply_mask};

/// The maximum number of payload bytes that an event contains.
pub const PAYLOAD_MAX_BYTES: usize = 4096;
/// The maximum number of events that wait for the operator. Further ones are counted as missed.
const EVENTS_MAX: usize = 256;

/// An event of a watched session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A frame was forwarded.
    Frame(WatchedFrame),
    /// This many frames were not reported, because the operator did not read events fast enough.
    Missed(u64),
}

/// A forwarded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedFrame {
    /// The side that sent it.
    pub from: Side,
    /// Its opcode.
    pub opcode: Opcode,
    /// Whether it ends its message.
    pub fin: bool,
    /// Whether it begins a compressed message (RFC 7692 section 6).
    pub compressed: bool,
    /// The length of its payload in bytes.
    pub length: u64,
    /// The first bytes of its payload, unmasked, if they are reported.
    pub payload: Option<Bytes>,
    /// The time since the session began.
    pub at: Duration,
}

/// The operator's end.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    missed: Arc<AtomicU64>,
}

/// The session's end.
#[derive(Debug)]
pub struct Watcher {
    events: mpsc::Sender<WatchEvent>,
    missed: Arc<AtomicU64>,
    payload: bool,
    /// The progress in the bytes of each side.
    decoders: [Decoder; 2],
}

/// Returns both ends. `payload` is whether events contain payloads.
pub fn watch(payload: bool) -> (Watcher, Watch) {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let missed = Arc::<AtomicU64>::default();
    let watcher = Watcher { events: sender, missed: Arc::clone(&missed), payload, decoders: Default::default() };
    (watcher, Watch { events, missed })
}

impl Watch {
    /// Returns the next event; `None` once the session is over. Missed frames are reported before the next one.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        match self.missed.swap(0, Ordering::Relaxed) {
            0 => self.events.recv().await,
            missed => Some(WatchEvent::Missed(missed)),
        }
    }
}

impl Watcher {
    /// Begins: this many bytes of the current frame of each side were not forwarded yet, and are skipped.
    pub(super) fn begin(&mut self, client: u64, upstream: u64) {
        self.decoders = [Decoder::skipping(client), Decoder::skipping(upstream)];
    }

    /// Whether the operator still watches.
    pub(super) fn is_open(&self) -> bool {
        !self.events.is_closed()
    }

    /// Reports the frames in forwarded bytes.
    pub(super) fn see(&mut self, from: Side, mut bytes: &[u8], started: Instant, now: Instant) {
        let payload = self.payload;
        let mut decoder = mem::take(self.decoder(from));
        while !bytes.is_empty() {
            let (used, frame) = decoder.step(bytes, payload);
            bytes = bytes.get(used..).unwrap_or_default();
            if let Some((header, payload)) = frame {
                let event = WatchEvent::Frame(WatchedFrame {
                    from,
                    opcode: header.opcode,
                    fin: header.fin,
                    compressed: header.rsv & 4 != 0,
                    length: header.payload_len,
                    payload: payload.map(Bytes::from),
                    at: now.saturating_duration_since(started),
                });
                if self.events.try_send(event).is_err() {
                    self.missed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        *self.decoder(from) = decoder;
    }

    /// Reports a control frame of our own, which may precede the rest of a frame of that side that is dropped.
    pub(super) fn see_own(&mut self, from: Side, frame: &[u8], started: Instant, now: Instant) {
        let decoder = mem::take(self.decoder(from));
        self.see(from, frame, started, now);
        *self.decoder(from) = decoder;
    }

    fn decoder(&mut self, from: Side) -> &mut Decoder {
        let [client, upstream] = &mut self.decoders;
        if from == Side::Client { client } else { upstream }
    }
}

/// Finds the frames in a stream of valid frames.
#[derive(Debug, Default)]
struct Decoder {
    /// A part of a header.
    partial: Vec<u8>,
    /// The frame whose payload is being collected.
    frame: Option<(Header, Vec<u8>)>,
    /// Bytes of payload left in the frame.
    left: u64,
}

impl Decoder {
    fn skipping(left: u64) -> Self {
        Self { left, ..Self::default() }
    }

    /// Consumes some bytes, at least one. Returns their number, and a frame once its reported part is complete.
    fn step(&mut self, bytes: &[u8], keep_payload: bool) -> (usize, Option<(Header, Option<Vec<u8>>)>) {
        if self.left > 0 {
            let used = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left = self.left.saturating_sub(used as u64);
            if let Some((_, payload)) = &mut self.frame {
                let wanted = PAYLOAD_MAX_BYTES.saturating_sub(payload.len()).min(used);
                payload.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
            }
            return (used, self.finish());
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes.get(..HEADER_MAX_BYTES.min(bytes.len())).unwrap_or_default());
        let Ok(Some(header)) = Header::decode(&self.partial) else {
            // Forwarded headers are valid, so this one is incomplete.
            self.partial.truncate(HEADER_MAX_BYTES);
            return (self.partial.len().saturating_sub(before).max(1), None);
        };
        self.partial.clear();
        self.left = header.payload_len;
        let used = header.len.saturating_sub(before);
        if keep_payload {
            self.frame = Some((header, Vec::new()));
            return (used, self.finish());
        }
        (used, Some((header, None)))
    }

    /// Returns the frame if it is complete.
    fn finish(&mut self) -> Option<(Header, Option<Vec<u8>>)> {
        if self.left > 0 {
            return None;
        }
        let (header, mut payload) = self.frame.take()?;
        if let Some(key) = header.mask {
            apply_mask(&mut payload, key, 0);
        }
        Some((header, Some(payload)))
    }
}

#[cfg(test)]
mod tests;
