//! An endpoint of a session that sends random frames, and malformed ones if [`Habits::evil`] is set.

use tollgate::session::Side;

use super::random::Random;
use super::wire::{self, BINARY, CLOSE, CONTINUATION, Decoder, FIN, Frame, PING, PONG, RSV1, TEXT};

/// Payload lengths at the boundaries of the length encodings, of control frames, and of small fragments.
const EDGES: [usize; 7] = [0, 1, 125, 126, 127, 128, 129];
const FAR_EDGES: [usize; 2] = [65_535, 65_536];
const CLOSE_CODES: [u16; 6] = [1000, 1001, 1011, 1014, 3000, 4999];
const BAD_CLOSE_CODES: [u16; 8] = [0, 999, 1004, 1005, 1006, 1015, 2999, 5000];

/// The behaviour of an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Whether it breaks rules of the protocol.
    pub evil: bool,
    pub answers_pings: bool,
    pub answers_close: bool,
    /// The probability, in percent, that it sends a Close instead of another frame.
    pub closes: usize,
    /// Whether it marks messages as compressed.
    pub compressed: bool,
}

impl Habits {
    pub fn polite(compressed: bool) -> Self {
        Self { evil: false, answers_pings: true, answers_close: true, closes: 0, compressed }
    }
}

pub struct Endpoint {
    pub side: Side,
    pub habits: Habits,
    /// Bytes that it has sent and the relay has not received yet: whole frames, unless `evil` is set.
    pub queue: Vec<u8>,
    /// All bytes that the relay has received.
    pub arrived: Vec<u8>,
    pub decoder: Decoder,
    in_message: bool,
    /// Whether the current message is text that is not marked as compressed.
    in_text: bool,
    /// The rest of a character whose first bytes have been sent.
    half_character: Vec<u8>,
    pub has_closed: bool,
}

impl Endpoint {
    pub fn new(side: Side, habits: Habits) -> Self {
        Self {
            side,
            habits,
            queue: Vec::new(),
            arrived: Vec::new(),
            decoder: Decoder::new(side == Side::Upstream, habits.compressed),
            in_message: false,
            in_text: false,
            half_character: Vec::new(),
            has_closed: false,
        }
    }

    /// Removes and returns the first `len` bytes of the queue.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let taken: Vec<u8> = self.queue.drain(..len.min(self.queue.len())).collect();
        self.arrived.extend_from_slice(&taken);
        taken
    }

    /// Reads the frames received since the last call, and answers pings and Closes.
    pub fn react(&mut self, received: &[u8], random: &mut Random) {
        while let Some(Frame { opcode, payload, .. }) = self.decoder.next(received) {
            match opcode {
                PING if self.habits.answers_pings && !self.has_closed => self.push(random, FIN | PONG, &payload),
                CLOSE if self.habits.answers_close && !self.has_closed => {
                    self.has_closed = true;
                    self.push(random, FIN | CLOSE, &payload);
                }
                _ => {}
            }
        }
    }

    /// Queues a random frame, or malformed bytes if `evil` is set.
    pub fn queue_random(&mut self, random: &mut Random) {
        if self.habits.evil && random.chance(15) {
            return self.queue_malformed(random);
        }
        if self.has_closed {
            return;
        }
        if random.chance(self.habits.closes) {
            self.has_closed = true;
            let payload = if random.chance(20) {
                Vec::new()
            } else {
                wire::close_payload(random.pick(&CLOSE_CODES), random.pick(&["", "bye", "grüße"]))
            };
            return self.push(random, FIN | CLOSE, &payload);
        }
        if random.chance(20) {
            let len = random.pick(&[0, 1, 8, 125]);
            let payload = random.bytes(len);
            let opcode = random.pick(&[PING, PING, PONG]);
            return self.push(random, FIN | opcode, &payload);
        }
        self.queue_data(random);
    }

    fn queue_data(&mut self, random: &mut Random) {
        let ends = random.chance(60);
        let mut first = if ends { FIN } else { 0 };
        if self.in_message {
            first |= CONTINUATION;
        } else {
            let opcode = random.pick(&[TEXT, BINARY]);
            let marked = self.habits.compressed && random.chance(50);
            first |= opcode | if marked { RSV1 } else { 0 };
            self.in_text = opcode == TEXT && !marked;
        }
        self.in_message = !ends;
        let len = match random.below(1_000) {
            0..3 => random.pick(&FAR_EDGES),
            3..100 => random.pick(&EDGES),
            _ => random.below(40),
        };
        let payload = if self.in_text { self.text(random, len, ends) } else { random.bytes(len) };
        self.push(random, first, &payload);
    }

    /// Returns about `len` bytes of text. The last character may be split if the message continues.
    fn text(&mut self, random: &mut Random, len: usize, ends: bool) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.half_character);
        text.extend((0..len).map(|_| b'a' + random.below(26) as u8));
        let character = random.pick(&["ä", "€", "😀"]).as_bytes();
        let cut = if ends { character.len() } else { random.below(character.len() + 1) };
        text.extend_from_slice(&character[..cut]);
        if cut > 0 {
            self.half_character = character[cut..].to_vec();
        }
        text
    }

    fn queue_malformed(&mut self, random: &mut Random) {
        let own_mask = self.side == Side::Client;
        let key = random.key();
        let payload = random.bytes(5);
        let bytes = match random.below(12) {
            0 => {
                let len = 1 + random.below(30);
                random.bytes(len)
            }
            1 => wire::frame(FIN | BINARY, (!own_mask).then_some(key), &payload),
            2 => wire::frame(FIN | random.pick(&[3, 7, 11, 15]), own_mask.then_some(key), &payload),
            3 => wire::frame(FIN | BINARY | random.pick(&[0x10, 0x20, RSV1]), own_mask.then_some(key), &payload),
            4 => wire::frame(random.pick(&[PING, PONG, CLOSE]), own_mask.then_some(key), &payload),
            5 => wire::frame(FIN | PING, own_mask.then_some(key), &[0; 126]),
            6 => wire::frame(FIN | CLOSE, own_mask.then_some(key), &random.pick(&BAD_CLOSE_CODES).to_be_bytes()),
            7 => wire::frame(FIN | CLOSE, own_mask.then_some(key), random.pick(&[&b"\x03"[..], b"\x03\xe8\xff"])),
            8 => wire::frame(FIN | TEXT, own_mask.then_some(key), b"abc\xffdef"),
            9 => {
                wire::header(BINARY, own_mask.then_some(key), random.pick(&[1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX]))
            }
            10 => {
                wire::frame(FIN | if self.in_message { TEXT } else { CONTINUATION }, own_mask.then_some(key), &payload)
            }
            _ => {
                let mut bytes = wire::frame(FIN | BINARY, own_mask.then_some(key), &payload);
                let index = random.below(bytes.len());
                bytes[index] ^= 1 << random.below(8);
                bytes
            }
        };
        self.queue.extend(bytes);
    }

    pub fn push(&mut self, random: &mut Random, first: u8, payload: &[u8]) {
        let key = (self.side == Side::Client).then(|| random.key());
        self.queue.extend(wire::frame(first, key, payload));
    }
}
