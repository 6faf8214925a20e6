//! The fuzz target of the record layer: a script decides which records a peer sends.

#[path = "../record/oracle.rs"]
mod oracle;

use oracle::Oracle;
use tollgate::record::{Content, HEADER_LEN, Opened, Opener, PLAINTEXT_MAX, Suite, Violation};

/// Checks records of every kind, valid and broken. The first byte selects the suite. The rest are commands: a byte, a
/// length, and that many bytes of argument.
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
            // Any inner plaintext, with padding.
            3 => [argument, &[0; 3]].concat(),
            4 => {
                peer.update();
                continue;
            }
            // Bytes that are not a record of the peer.
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
    // The opened data is a prefix of the sealed data.
    assert!(sealed.starts_with(&whole.0));
    // Small pieces would be slow with records at the limit.
    let pieces: &[usize] = if wire.len() > 4096 { &[4099] } else { &[1, 7, 64] };
    for &piece in pieces {
        assert_eq!(open(&Oracle::new(suite), &wire, piece), whole, "in pieces of {piece}");
    }
}

/// Opens a stream in pieces. Returns the data, the number of requested key updates, whether the stream was closed, and
/// the violation.
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
