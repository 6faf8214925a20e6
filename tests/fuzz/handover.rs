//! The fuzz target of what arrives from another process: messages, lists of records, and their contents.

use tollgate::handover::records::{self, Record, Records, SESSION_MAX_BYTES};
use tollgate::handover::wire::{MESSAGE_MAX_BYTES, Message};
use tollgate::relay::image::SessionImage;

/// Values of every kind of length and choice that an image contains.
type Values = (u16, Option<u64>, Vec<u8>, String, Vec<(u8, Option<String>)>, Result<bool, [u8; 4]>);

/// Checks one input. The first byte selects how it is read.
pub fn handover(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    match selector % 5 {
        0 => message(data),
        1 => list(data),
        2 => written(data),
        3 => content(data),
        _ => image(data),
    }
}

/// Whether an input is a good message, list of records or content.
pub fn is_good_handover(data: &[u8]) -> bool {
    match data.split_first() {
        Some((&selector, data)) if selector % 5 == 0 => Message::decode(data).is_ok(),
        Some((&selector, data)) if selector % 5 == 1 => {
            !data.is_empty() && Records::new(data, SESSION_MAX_BYTES).all(|record| record.is_ok())
        }
        Some((&selector, data)) if selector % 5 == 3 => records::decode::<Values>(data).is_ok(),
        Some((&selector, data)) if selector % 5 == 4 => {
            data.split_first().is_some_and(|(&version, data)| SessionImage::decode(version.into(), data).is_ok())
        }
        _ => false,
    }
}

fn message(packet: &[u8]) {
    if let Ok(message) = Message::decode(packet) {
        let encoded = message.encode().unwrap();
        assert!(encoded.len() <= MESSAGE_MAX_BYTES);
        assert_eq!(Message::decode(&encoded), Ok(message));
    }
}

fn list(bytes: &[u8]) {
    let mut len = 0;
    let mut failed = false;
    for record in Records::new(bytes, SESSION_MAX_BYTES) {
        match record {
            Ok(record) => {
                let content = record.content.to_vec().into();
                let header = Record { kind: record.kind, version: record.version, content }.header().unwrap();
                assert!(failed || bytes[len..].starts_with(&header));
                len += header.len() + record.content.len();
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                failed = true;
            }
        }
    }
    assert!(len <= bytes.len() && (failed || len == bytes.len()));
}

/// Writes a list whose contents are pieces of the input: a length and that many bytes each. Reads it, as it is and with
/// one byte changed.
fn written(mut data: &[u8]) {
    let (mut pieces, mut bytes) = (Vec::new(), Vec::new());
    while let [len, rest @ ..] = data {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        let record = Record { kind: u16::from(*len), version: 1, content: piece.to_vec().into() };
        bytes.extend_from_slice(&record.header().unwrap());
        bytes.extend_from_slice(piece);
        pieces.push(piece);
        data = rest;
    }
    let read: Vec<_> = Records::new(&bytes, 255).map(|record| record.unwrap().content).collect();
    assert_eq!(read, pieces);
    let Some(at) = pieces.first().map(|piece| piece.iter().map(|byte| usize::from(*byte)).sum::<usize>() % bytes.len())
    else {
        return;
    };
    bytes[at] ^= 1;
    assert!(Records::new(&bytes, 255).any(|record| record.is_err()));
}

fn content(bytes: &[u8]) {
    if let Ok(values) = records::decode::<Values>(bytes) {
        let encoded = records::encode(&values, bytes.len()).unwrap();
        assert_eq!(records::decode::<Values>(&encoded), Ok(values));
    }
}

/// Reads the state of a session in the version that the first byte says.
fn image(data: &[u8]) {
    let Some((&version, data)) = data.split_first() else { return };
    let version = u16::from(version);
    if let Ok(image) = SessionImage::decode(version, data) {
        let encoded = image.encode(version).unwrap();
        let again = SessionImage::decode(version, &encoded).unwrap();
        assert_eq!(again.encode(version).unwrap(), encoded);
    }
}
