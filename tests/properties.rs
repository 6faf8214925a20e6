//! Properties of `ws` that hold for every input, and a comparison with tungstenite on the same bytes.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

#[path = "harness/wire.rs"]
#[allow(dead_code)] // The rest of it is used by the tests of whole sessions.
mod wire;

use std::io::{self, Cursor, Read, Write};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tollgate::ws::close::Close;
use tollgate::ws::code::CloseCode;
use tollgate::ws::frame::{CONTROL_MAX_BYTES, ControlFrame, HEADER_MAX_BYTES, Header, Opcode, apply_mask};
use tollgate::ws::handshake::{Answer, Opening, accept, key};
use tollgate::ws::inspector::{Inspector, Next, Rules};
use tollgate::ws::utf8::Utf8;
use tollgate::ws::violation::Violation;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

/// The largest frame and message in the comparison with tungstenite, which allocates memory for a frame when it reads
/// its header.
const MAX_BYTES: u64 = 1 << 16;

const RULES: Rules = Rules {
    masked: true,
    compressed: false,
    frame_max_bytes: MAX_BYTES,
    message_max_bytes: MAX_BYTES,
    check_utf8: true,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_encoded_header_decodes_to_the_same(header in header(), rest in vec(any::<u8>(), 0..20)) {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let header = Header { len: bytes.len(), ..header };
        prop_assert!(bytes.len() <= HEADER_MAX_BYTES);
        for cut in 0..bytes.len() {
            prop_assert_eq!(Header::decode(&bytes[..cut]), Ok(None));
        }
        bytes.extend(rest);
        prop_assert_eq!(Header::decode(&bytes), Ok(Some(header)));
    }

    #[test]
    fn a_decoded_header_encodes_to_the_same_bytes(bytes in header_bytes()) {
        if let Ok(Some(header)) = Header::decode(&bytes) {
            let mut written = Vec::new();
            header.encode(&mut written);
            prop_assert_eq!(&written, &bytes[..header.len]);
        }
    }

    #[test]
    fn further_bytes_never_change_the_result_of_decoding(bytes in header_bytes()) {
        let whole = Header::decode(&bytes);
        for cut in 0..bytes.len() {
            match Header::decode(&bytes[..cut]) {
                Ok(None) => {}
                judged => prop_assert_eq!(judged, whole),
            }
        }
    }

    #[test]
    fn masking_twice_is_the_identity_and_pieces_can_be_masked_separately(
        payload in vec(any::<u8>(), 0..100),
        key: [u8; 4],
        cut: Index,
        before in 0..u64::MAX / 2,
    ) {
        let mut whole = payload.clone();
        apply_mask(&mut whole, key, before);
        let mut pieces = payload.clone();
        let (first, second) = pieces.split_at_mut(cut.index(payload.len() + 1));
        apply_mask(first, key, before);
        apply_mask(second, key, before + first.len() as u64);
        prop_assert_eq!(&pieces, &whole);
        apply_mask(&mut whole, key, before);
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn an_encoded_close_parses_to_its_code_and_reason(code: u16, reason in ".{0,60}") {
        let frame = ControlFrame::close(CloseCode(code), &reason);
        let cut = match Close::parse(frame.payload()) {
            Ok(close) => {
                prop_assert_eq!(close.code, Some(CloseCode(code)));
                close.reason
            }
            Err(violation) => {
                prop_assert!(!CloseCode(code).may_be_sent());
                prop_assert_eq!(violation, Violation::CloseCode);
                return Ok(());
            }
        };
        prop_assert!(reason.starts_with(cut) && (cut == reason || cut.len() > 42));
        prop_assert!(frame.payload().len() <= CONTROL_MAX_BYTES);
    }

    #[test]
    fn a_close_payload_is_parsed_as_the_rfc_requires(payload in vec(any::<u8>(), 0..20)) {
        let expected = match payload.len() {
            0 => Ok(None),
            1 => Err(Violation::ShortClose),
            _ => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                match (CloseCode(code).may_be_sent(), std::str::from_utf8(&payload[2..])) {
                    (false, _) => Err(Violation::CloseCode),
                    (true, Err(_)) => Err(Violation::CloseReason),
                    (true, Ok(_)) => Ok(Some(CloseCode(code))),
                }
            }
        };
        prop_assert_eq!(Close::parse(&payload).map(|close| close.code), expected);
    }

    #[test]
    fn utf8_in_pieces_agrees_with_the_standard_library(text in text_or_not(), cuts in vec(any::<Index>(), 0..6)) {
        let mut utf8 = Utf8::default();
        let mut end = 0;
        let mut failed = false;
        for piece in pieces(&text, &cuts) {
            failed = utf8.push(piece).is_err();
            end += piece.len();
            // The text is rejected with the first piece after which it cannot become UTF-8, and not earlier.
            let hopeless = std::str::from_utf8(&text[..end]).is_err_and(|error| error.error_len().is_some());
            prop_assert_eq!(failed, hopeless);
            if failed {
                break;
            }
        }
        prop_assert_eq!(!failed && utf8.end().is_ok(), std::str::from_utf8(&text).is_ok());
    }

    #[test]
    fn inspection_does_not_depend_on_how_the_bytes_are_split(
        stream in stream(),
        cuts in vec(any::<Index>(), 0..10),
        compressed: bool,
    ) {
        let rules = Rules { compressed, ..RULES };
        let whole = inspect(rules, [&stream[..]]);
        let expected = (&whole.messages, whole.violation);
        let single = inspect(rules, stream.chunks(1));
        prop_assert_eq!((&single.messages, single.violation), expected);
        let cut = inspect(rules, pieces(&stream, &cuts));
        prop_assert_eq!((&cut.messages, cut.violation), expected);
    }

    #[test]
    fn tungstenite_agrees_about_whole_frames(frames in vec(frame(), 0..8)) {
        compare(&frames.concat())?;
    }

    #[test]
    fn tungstenite_agrees_about_any_bytes(stream in stream()) {
        compare(&stream)?;
    }

    #[test]
    fn a_parsed_opening_handshake_is_well_formed(
        method in select(vec![Method::GET, Method::GET, Method::GET, Method::POST]),
        uri in select(vec!["/", "/a?b", "*", "http://h/x", "h:1", "ws://h", "ftp://h/"]),
        version in select(vec![Version::HTTP_11, Version::HTTP_11, Version::HTTP_10, Version::HTTP_2]),
        fields in vec(field(), 0..12),
        well_formed: bool,
    ) {
        let uri: Uri = uri.parse().unwrap();
        let mut headers = HeaderMap::new();
        if well_formed {
            for (name, value) in WELL_FORMED {
                headers.append(name, HeaderValue::from_static(value));
            }
        }
        headers.extend(fields);
        if let Ok(opening) = Opening::parse(&method, &uri, version, &headers) {
            prop_assert!(opening.path.starts_with('/'));
            prop_assert_eq!(accept(opening.key).len(), 28);
            for offer in &opening.extensions {
                prop_assert!(offer.starts_with("permessage-deflate"));
            }
            let mut protocols = opening.protocols.clone();
            protocols.sort_unstable();
            protocols.dedup();
            prop_assert_eq!(protocols.len(), opening.protocols.len());
        }
    }

    #[test]
    fn a_parsed_answer_matches_the_offer(
        random: [u8; 16],
        status in select(vec![101_u16, 101, 101, 200]),
        right_accept: bool,
        fields in vec(field(), 0..8),
        compression: bool,
    ) {
        let key = key(random);
        let mut headers = HeaderMap::new();
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        if right_accept {
            headers.insert("sec-websocket-accept", HeaderValue::try_from(accept(&key)).unwrap());
        }
        headers.extend(fields);
        let offered = ["chat", "a"];
        let status = StatusCode::from_u16(status).unwrap();
        let extensions: &[&str] = if compression { &["permessage-deflate"] } else { &[] };
        if let Ok(answer) = Answer::parse(status, Version::HTTP_11, &headers, &key, &offered, extensions) {
            prop_assert_eq!(status, 101);
            prop_assert!(answer.protocol.is_none_or(|protocol| offered.contains(&protocol)));
            prop_assert!(answer.extension.is_none() || compression);
            prop_assert!(headers.get_all("sec-websocket-accept").iter().eq([accept(&key).as_str()]));
        }
    }
}

const WELL_FORMED: [(&str, &str); 5] = [
    ("host", "example.com"),
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let names = vec![
        "host",
        "upgrade",
        "connection",
        "sec-websocket-version",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "sec-websocket-accept",
        "origin",
        "content-length",
        "transfer-encoding",
    ];
    let likely = vec![
        "",
        "0",
        "13",
        "a, chat",
        "a,a",
        ", ,",
        "keep-alive, Upgrade",
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits, permessage-deflate",
        "x; y=\"a,\\\"b\"",
        "\"",
        "example.com",
    ];
    let value = prop_oneof![
        select(likely).prop_map(HeaderValue::from_static),
        vec(any::<u8>(), 0..20).prop_filter_map("controls", |bytes| HeaderValue::from_bytes(&bytes).ok()),
    ];
    (select(names).prop_map(HeaderName::from_static), value)
}

fn opcode() -> impl Strategy<Value = Opcode> {
    use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
    select(vec![Continuation, Text, Binary, Close, Ping, Pong])
}

/// Any header that is valid on the wire, with its field `len` not filled in.
fn header() -> impl Strategy<Value = Header> {
    let long = prop_oneof![0..300_u64, 65_000..66_000_u64, 0..=i64::MAX as u64];
    (opcode(), any::<bool>(), 0..8_u8, any::<Option<[u8; 4]>>(), long, 0..=125_u64).prop_map(
        |(opcode, fin, rsv, mask, long, short)| {
            let control = opcode.is_control();
            let payload_len = if control { short } else { long };
            Header { fin: fin || control, rsv, opcode, mask, payload_len, len: 0 }
        },
    )
}

/// Bytes that form a header more often than not.
fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let edges = select(vec![0, 125, 126, 65_535, 65_536, u64::MAX / 2, u64::MAX / 2 + 1]);
    let length =
        prop_oneof![edges.prop_map(|len: u64| len.to_be_bytes().to_vec()), vec(any::<u8>(), 8), vec(0..2_u8, 8)];
    let first = prop_oneof![4 => select(vec![0x81_u8, 0x02, 0x80, 0x89]), 1 => any::<u8>()];
    (first, select(vec![0_u8, 5, 125, 126, 127, 0x80, 0xfd, 0xfe, 0xff]), length, any::<[u8; 6]>())
        .prop_map(|(first, second, length, rest)| [&[first, second], &length[..], &rest[..]].concat())
}

fn text_or_not() -> impl Strategy<Value = Vec<u8>> {
    let edges = select(vec![
        &b"\xed\xa0\x80"[..],
        b"\xed\x9f\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf4\x8f\xbf\xbf",
        b"\xc0\xaf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf0\x9f\x98",
        b"\x80",
        b"\xff",
    ]);
    let part = prop_oneof![
        4 => any::<String>().prop_map(String::into_bytes),
        1 => edges.prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(part, 0..4).prop_map(|parts| parts.concat())
}

/// A whole frame that a client could send, or one with a fault.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => text_or_not(),
        1 => vec(any::<u8>(), 120..130),
        1 => select(vec![65_534_usize, 65_535, 65_536, 65_537]).prop_map(|len| vec![b'x'; len]),
        1 => (select(vec![999_u16, 1000, 1005, 1014, 3000]), ".{0,5}")
            .prop_map(|(code, reason)| wire::close_payload(code, &reason)),
    ];
    // Mostly the usual opcodes and FIN bits, and sometimes any byte.
    let first = prop_oneof![
        8 => select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x80, 0x00, 0x89, 0x8a]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let key = prop_oneof![9 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    (first, key, payload).prop_map(|(first, key, payload)| wire::frame(first, key, &payload))
}

/// Frames with some bytes changed and sometimes truncated, or random bytes.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..3);
    let changed = (vec(frame(), 0..6), changes, any::<Index>()).prop_map(|(frames, changes, cut)| {
        let mut stream = frames.concat();
        for (place, byte) in changes {
            if !stream.is_empty() {
                let place = place.index(stream.len().min(300));
                stream[place] = byte;
            }
        }
        if cut.index(3) == 0 {
            stream.truncate(cut.index(stream.len() + 1));
        }
        stream
    });
    prop_oneof![6 => changed, 1 => vec(any::<u8>(), 0..60)]
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// A message or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    opcode: Opcode,
    payload: Vec<u8>,
}

/// The result of inspecting a stream up to a Close.
struct Inspected {
    messages: Vec<Seen>,
    violation: Option<Violation>,
    closed: bool,
}

fn inspect<'a>(rules: Rules, pieces: impl IntoIterator<Item = &'a [u8]>) -> Inspected {
    let mut inspector = Inspector::new(rules);
    let mut seen = Inspected { messages: Vec::new(), violation: None, closed: false };
    let mut under_way: Option<(Seen, [u8; 4], u64)> = None;
    let mut kept = Vec::new();
    for piece in pieces {
        kept.extend_from_slice(piece);
        match inspect_kept(&mut inspector, &mut seen, &mut under_way, &kept) {
            Ok(_) if seen.closed => return seen,
            Ok(taken) => drop(kept.drain(..taken)),
            Err(violation) => {
                seen.violation = Some(violation);
                return seen;
            }
        }
    }
    seen
}

fn inspect_kept(
    inspector: &mut Inspector,
    seen: &mut Inspected,
    under_way: &mut Option<(Seen, [u8; 4], u64)>,
    bytes: &[u8],
) -> Result<usize, Violation> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        match inspector.look(rest)? {
            Next::Incomplete => return Ok(at),
            Next::Payload(n) => {
                assert!(0 < n && n <= rest.len());
                inspector.payload(&rest[..n])?;
                let (message, key, offset) = under_way.as_mut().expect("a payload has a header");
                let mut payload = rest[..n].to_vec();
                apply_mask(&mut payload, *key, *offset);
                message.payload.extend(payload);
                *offset += n as u64;
                at += n;
            }
            Next::Data(header) => {
                inspector.begin(&header)?;
                let key = header.mask.unwrap_or_default();
                match under_way {
                    Some((_, current, offset)) => (*current, *offset) = (key, 0),
                    None => *under_way = Some((Seen { opcode: header.opcode, payload: Vec::new() }, key, 0)),
                }
                at += header.len;
            }
            Next::Control(header) => {
                let end = header.len + usize::try_from(header.payload_len).unwrap();
                let mut payload = rest[header.len..end].to_vec();
                apply_mask(&mut payload, header.mask.unwrap_or_default(), 0);
                at += end;
                if header.opcode == Opcode::Close {
                    Close::parse(&payload)?;
                    seen.closed = true;
                }
                seen.messages.push(Seen { opcode: header.opcode, payload });
                if seen.closed {
                    return Ok(at);
                }
                continue;
            }
        }
        if !inspector.in_message()
            && let Some((message, _, _)) = under_way.take()
        {
            seen.messages.push(message);
        }
    }
}

/// A stream to read from; its writes are discarded.
struct Input<'a>(Cursor<&'a [u8]>);

impl Read for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Input<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The result of reading a stream with tungstenite as a server.
struct Oracle {
    messages: Vec<Seen>,
    /// Whether tungstenite failed the connection, and not because the stream ended.
    refused: bool,
}

fn oracle(stream: &[u8]) -> Oracle {
    let max = Some(usize::try_from(MAX_BYTES).unwrap());
    let config = WebSocketConfig::default().max_frame_size(max).max_message_size(max).accept_unmasked_frames(false);
    let mut socket = WebSocket::from_raw_socket(Input(Cursor::new(stream)), Role::Server, Some(config));
    let mut messages = Vec::new();
    loop {
        let (opcode, payload) = match socket.read() {
            Ok(Message::Text(text)) => (Opcode::Text, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => (Opcode::Binary, bytes.to_vec()),
            Ok(Message::Ping(bytes)) => (Opcode::Ping, bytes.to_vec()),
            Ok(Message::Pong(bytes)) => (Opcode::Pong, bytes.to_vec()),
            Ok(Message::Close(close)) => {
                let payload = close.map(|close| wire::close_payload(close.code.into(), &close.reason));
                messages.push(Seen { opcode: Opcode::Close, payload: payload.unwrap_or_default() });
                return Oracle { messages, refused: false };
            }
            Ok(Message::Frame(_)) => unreachable!("only written, never read"),
            Err(error) => {
                use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake as Ended;
                let refused = !matches!(error, tungstenite::Error::Protocol(Ended));
                return Oracle { messages, refused };
            }
        };
        messages.push(Seen { opcode, payload });
    }
}

/// Checks that tungstenite and Tollgate see the same messages and reject the same streams, with these differences:
///
/// - tungstenite accepts a length that fits a shorter form; section 5.2 requires the shortest. In a control frame
///   Tollgate treats any longer form as a long control frame.
/// - tungstenite accepts any close code and answers an invalid one with 1002. It also treats 1014 as invalid.
/// - tungstenite judges a frame or a text when it is complete. Tollgate judges the bytes that have arrived, so at the
///   end of the stream it may have rejected a frame that tungstenite still waits for.
fn compare(stream: &[u8]) -> Result<(), TestCaseError> {
    let ours = inspect(RULES, [stream]);
    let theirs = oracle(stream);
    let lenient =
        matches!(ours.violation, Some(Violation::LengthNotMinimal | Violation::LongControl | Violation::CloseCode));
    if lenient {
        prop_assert!(theirs.messages.starts_with(&ours.messages));
        return Ok(());
    }
    let close_code_of_its_own =
        |seen: &Seen| seen.opcode == Opcode::Close && seen.payload.starts_with(&1014_u16.to_be_bytes());
    match ours.messages.split_last() {
        Some((last, before)) if close_code_of_its_own(last) => {
            prop_assert_eq!(before.len() + 1, theirs.messages.len());
            prop_assert!(theirs.messages.starts_with(before));
        }
        _ => prop_assert_eq!(&ours.messages, &theirs.messages),
    }
    match (ours.violation, theirs.refused) {
        (None, refused) => prop_assert!(!refused, "only tungstenite rejects the stream"),
        (Some(_), true) => {}
        (Some(violation), false) => {
            prop_assert!(is_cut(stream), "only Tollgate rejects the stream: {violation:?}");
        }
    }
    Ok(())
}

/// Random bytes rarely reach this case.
#[test]
fn tungstenite_differs_only_as_documented_about_longer_lengths_of_control_frames() {
    compare(&[0x89, 0xfe, 0, 0, 0, 0, 0, 0]).unwrap();
    compare(&[0x89, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
}

/// Whether a stream ends within a frame or a message, as far as it can be split into frames.
fn is_cut(stream: &[u8]) -> bool {
    let frames = wire::split(stream);
    let whole: usize = frames.iter().filter(|frame| frame.whole).map(|frame| frame.bytes.len()).sum();
    let data = frames.iter().rfind(|frame| !frame.is_control());
    whole < stream.len() || data.is_some_and(|last| last.first & wire::FIN == 0)
}
