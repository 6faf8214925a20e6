//! The record layer against a script of what a peer sends.

#[path = "../record/oracle.rs"]
mod oracle;

use oracle::Oracle;
use tollgate::record::{Content, HEADER_LEN, Opened, Opener, PLAINTEXT_MAX, Suite, Violation};

/// Records of every kind, whole and broken. The first byte chooses the suite; then come commands, each a byte, a length
/// and so many bytes.
pub fn record(data: &[u8]) {
    let Some((&suite, mut script)) = data.split_first() else { return };
    let suite = Suite::ALL[usize::from(suite) % 3];
    let mut peer = Oracle::new(suite);
    let (mut wire, mut sealed) = (Vec::new(), Vec::new());
    while let [command, len, rest @ ..] = script {
        let (argument, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        script = rest;
        let inner = match command % 8 {
            0 => [argument, &[23]].concat(),
            1 => [argument, &[22]].concat(),
            2 => [argument, &[21]].concat(),
            // Whatever is to stand within, and padding.
            3 => [argument, &[0; 3]].concat(),
            4 => {
                peer.update();
                continue;
            }
            // Bytes that are no record of the peer's.
            5 => {
                wire.extend_from_slice(argument);
                continue;
            }
            6 => {
                for (byte, flip) in wire.iter_mut().rev().zip(argument) {
                    *byte ^= flip;
                }
                continue;
            }
            // Lengths at the limit.
            _ => [vec![argument.len() as u8; PLAINTEXT_MAX - 2 + argument.len() % 5], vec![23]].concat(),
        };
        if let Some(end) = inner.iter().rposition(|&byte| byte != 0).filter(|&end| inner[end] == 23) {
            sealed.extend_from_slice(&inner[..end]);
        }
        wire.extend(peer.seal(&inner));
    }
    let whole = open(&Oracle::new(suite), &wire, wire.len().max(1));
    // What opens is what was sealed, in order, from the start on.
    assert!(sealed.starts_with(&whole.0));
    // A few pieces at a time would take a while with records at the limit.
    let pieces: &[usize] = if wire.len() > 4096 { &[4099] } else { &[1, 7, 64] };
    for &piece in pieces {
        assert_eq!(open(&Oracle::new(suite), &wire, piece), whole, "in pieces of {piece}");
    }
}

/// What an opener makes of a stream in pieces: the data, how often a key update was asked for, whether the stream was
/// closed, and what was wrong.
fn open(peer: &Oracle, wire: &[u8], piece: usize) -> (Vec<u8>, usize, bool, Option<Violation>) {
    let mut opener = Opener::new(peer.secret(), 0);
    let (mut data, mut requests, mut buffer) = (Vec::new(), 0, Vec::new());
    for bytes in wire.chunks(piece) {
        buffer.extend_from_slice(bytes);
        loop {
            match opener.open(&mut buffer) {
                Ok(None) => break,
                Ok(Some(Opened { len, content })) => {
                    assert!(len <= buffer.len() && len >= HEADER_LEN);
                    match content {
                        Content::Data(range) => {
                            assert!(!range.is_empty() && range.end <= len);
                            data.extend_from_slice(&buffer[range]);
                        }
                        Content::Nothing => {}
                        Content::KeyUpdateRequested => requests += 1,
                        Content::Closed => return (data, requests, true, None),
                    }
                    buffer.drain(..len);
                    opener.hibernate();
                }
                Err(violation) => {
                    assert_eq!(opener.open(&mut []), Err(violation));
                    return (data, requests, false, Some(violation));
                }
            }
        }
    }
    (data, requests, false, None)
}
