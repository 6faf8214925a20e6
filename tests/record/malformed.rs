//! Records that a peer must not send, each with the alert that answers it, and records that it may send.

use tollgate::record::{
    Alert, BODY_MAX, Content, IDLE_RECORDS_MAX, KEY_UPDATES_MAX, Opened, Opener, PLAINTEXT_MAX, RECORD_MAX, Suite,
    Violation,
};

use super::oracle::Oracle;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const REQUEST: [u8; 5] = [24, 0, 0, 1, 1];

/// Opens records until none is left, one closes the direction, or one breaks a rule.
fn open_all(opener: &mut Opener, mut bytes: Vec<u8>) -> Result<Vec<Content>, Violation> {
    let (mut at, mut contents) = (0, Vec::new());
    while let Some(Opened { len, content }) = opener.open(&mut bytes[at..])? {
        at += len;
        let closed = content == Content::Closed;
        contents.push(content);
        if closed {
            break;
        }
    }
    Ok(contents)
}

/// Checks the result for `bytes`. After a violation every later call must return it again.
fn check(suite: Suite, bytes: Vec<u8>, expected: &Result<Vec<Content>, Violation>) {
    let mut opener = Opener::new(Oracle::new(suite).secret(), 0);
    assert_eq!(open_all(&mut opener, bytes), *expected, "{suite:?}");
    if let Err(violation) = *expected {
        let good = Oracle::new(suite).record(DATA, b"good");
        assert_eq!(open_all(&mut opener, good), Err(violation));
    }
}

type Case = (&'static str, fn(&mut Oracle) -> Vec<u8>, Violation, Option<Alert>);

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn invalid_records_are_violations_with_an_alert() {
    use Alert::{BadRecordMac, DecodeError, IllegalParameter, RecordOverflow, UnexpectedMessage};
    let cases: &[Case] = &[
        ("a header over the limit", |_| vec![23, 3, 3, 0x41, 0x01], Violation::RecordTooLong, Some(RecordOverflow)),
        ("the longest header", |_| vec![23, 3, 3, 0xff, 0xff], Violation::RecordTooLong, Some(RecordOverflow)),
        (
            "a plaintext over the limit",
            |o| o.record(DATA, &vec![1; PLAINTEXT_MAX + 1]),
            Violation::PlaintextTooLong,
            Some(RecordOverflow),
        ),
        (
            "padding over the limit",
            |o| o.seal(&[&[1, DATA][..], &vec![0; PLAINTEXT_MAX]].concat()),
            Violation::PlaintextTooLong,
            Some(RecordOverflow),
        ),
        ("no body", |_| vec![23, 3, 3, 0, 0], Violation::NotAuthentic, Some(BadRecordMac)),
        (
            "less than a tag",
            |_| [&[23, 3, 3, 0, 15][..], &[0; 15]].concat(),
            Violation::NotAuthentic,
            Some(BadRecordMac),
        ),
        ("an empty inner plaintext", |o| o.seal(&[]), Violation::NoContentType, Some(UnexpectedMessage)),
        ("only padding", |o| o.seal(&[0; 100]), Violation::NoContentType, Some(UnexpectedMessage)),
        ("a bad tag", |o| flip(o.record(DATA, b"x"), usize::MAX), Violation::NotAuthentic, Some(BadRecordMac)),
        ("a bad byte", |o| flip(o.record(DATA, b"x"), 5), Violation::NotAuthentic, Some(BadRecordMac)),
        ("another version", |o| flip(o.record(DATA, b"x"), 2), Violation::NotAuthentic, Some(BadRecordMac)),
        (
            "a replay",
            |o| {
                let record = o.record(DATA, b"x");
                [&record[..], &record].concat()
            },
            Violation::NotAuthentic,
            Some(BadRecordMac),
        ),
        (
            "a skipped record",
            |o| {
                o.sequence += 1;
                o.record(DATA, b"x")
            },
            Violation::NotAuthentic,
            Some(BadRecordMac),
        ),
        (
            "the old key after an update",
            |o| [o.record(HANDSHAKE, &UPDATE), o.record(DATA, b"x")].concat(),
            Violation::NotAuthentic,
            Some(BadRecordMac),
        ),
        ("a plain change_cipher_spec", |_| vec![20, 3, 3, 0, 1, 1], Violation::NotProtected, Some(UnexpectedMessage)),
        ("a plain alert", |_| vec![21, 3, 3, 0, 2, 1, 0], Violation::NotProtected, Some(UnexpectedMessage)),
        (
            "a plain handshake message",
            |_| vec![22, 3, 3, 0, 5, 24, 0, 0, 1, 0],
            Violation::NotProtected,
            Some(UnexpectedMessage),
        ),
        ("not TLS, shorter than a header", |_| b"GET".to_vec(), Violation::NotProtected, Some(UnexpectedMessage)),
        ("change_cipher_spec", |o| o.record(20, &[1]), Violation::ContentType, Some(UnexpectedMessage)),
        ("a heartbeat", |o| o.record(24, &[1]), Violation::ContentType, Some(UnexpectedMessage)),
        ("an unknown type", |o| o.record(255, &[]), Violation::ContentType, Some(UnexpectedMessage)),
        ("an empty handshake record", |o| o.record(HANDSHAKE, &[]), Violation::Empty, Some(UnexpectedMessage)),
        ("an empty alert", |o| o.record(ALERT, &[]), Violation::Empty, Some(UnexpectedMessage)),
        ("half an alert", |o| o.record(ALERT, &[1]), Violation::AlertLength, Some(DecodeError)),
        ("two alerts", |o| o.record(ALERT, &[1, 90, 1, 0]), Violation::AlertLength, Some(DecodeError)),
        ("a ticket", |o| o.record(HANDSHAKE, &[4, 0, 0, 1, 0]), Violation::HandshakeMessage, Some(UnexpectedMessage)),
        ("a renegotiation", |o| o.record(HANDSHAKE, &[1]), Violation::HandshakeMessage, Some(UnexpectedMessage)),
        ("a certificate", |o| o.record(HANDSHAKE, &[11, 0]), Violation::HandshakeMessage, Some(UnexpectedMessage)),
        ("an empty key update", |o| o.record(HANDSHAKE, &[24, 0, 0, 0]), Violation::KeyUpdateLength, Some(DecodeError)),
        ("a huge key update", |o| o.record(HANDSHAKE, &[24, 1]), Violation::KeyUpdateLength, Some(DecodeError)),
        (
            "a long key update",
            |o| o.record(HANDSHAKE, &[24, 0, 0, 2, 0, 0]),
            Violation::KeyUpdateLength,
            Some(DecodeError),
        ),
        (
            "a key update with an invalid value",
            |o| o.record(HANDSHAKE, &[24, 0, 0, 1, 2]),
            Violation::KeyUpdateValue,
            Some(IllegalParameter),
        ),
        (
            "two key updates in a record",
            |o| o.record(HANDSHAKE, &[UPDATE, UPDATE].concat()),
            Violation::AcrossKeyChange,
            Some(UnexpectedMessage),
        ),
        (
            "the start of a message after a key update",
            |o| o.record(HANDSHAKE, &[&UPDATE[..], &[24]].concat()),
            Violation::AcrossKeyChange,
            Some(UnexpectedMessage),
        ),
        (
            "bytes after a fragmented key update",
            |o| [o.record(HANDSHAKE, &UPDATE[..4]), o.record(HANDSHAKE, &[0, 24])].concat(),
            Violation::AcrossKeyChange,
            Some(UnexpectedMessage),
        ),
        (
            "data within a key update",
            |o| [o.record(HANDSHAKE, &UPDATE[..2]), o.record(DATA, b"x")].concat(),
            Violation::Interleaved,
            Some(UnexpectedMessage),
        ),
        (
            "an alert within a key update",
            |o| [o.record(HANDSHAKE, &UPDATE[..2]), o.record(ALERT, &[1, 0])].concat(),
            Violation::Interleaved,
            Some(UnexpectedMessage),
        ),
    ];
    for (name, make, violation, alert) in cases {
        for suite in Suite::ALL {
            println!("{name}");
            let mut bytes = make(&mut Oracle::new(suite));
            check(suite, bytes.clone(), &Err(*violation));
            assert_eq!(violation.alert(), *alert);
            // The same after a valid record.
            let mut oracle = Oracle::new(suite);
            let mut after = oracle.record(DATA, b"good");
            bytes = make(&mut oracle);
            after.extend(bytes);
            check(suite, after, &Err(*violation));
        }
    }
}

fn flip(mut record: Vec<u8>, at: usize) -> Vec<u8> {
    let at = at.min(record.len() - 1);
    record[at] ^= 1;
    record
}

#[test]
fn an_alert_is_judged_by_its_description_alone() {
    for description in 0..=255 {
        for level in [0, 1, 2, 255] {
            let expected = match description {
                0 => Ok(vec![Content::Closed]),
                90 => Ok(vec![Content::Nothing]),
                _ => Err(Violation::Alerted(description)),
            };
            let bytes = Oracle::new(Suite::Aes128Gcm).record(ALERT, &[level, description]);
            check(Suite::Aes128Gcm, bytes, &expected);
        }
    }
    assert_eq!(Violation::Alerted(40).alert(), None);
}

#[test]
fn valid_records_are_accepted() {
    for suite in Suite::ALL {
        let mut oracle = Oracle::new(suite);
        let mut bytes = oracle.record(DATA, &vec![7; PLAINTEXT_MAX]);
        // The longest padding leaves one byte of content.
        bytes.extend(oracle.seal(&[&[7, DATA][..], &vec![0; PLAINTEXT_MAX - 1]].concat()));
        bytes.extend(oracle.record(DATA, &[]));
        bytes.extend(oracle.seal(&[DATA, 0, 0, 0]));
        bytes.extend(oracle.record(ALERT, &[1, 90]));
        for part in REQUEST {
            bytes.extend(oracle.record(HANDSHAKE, &[part]));
        }
        oracle.update();
        bytes.extend(oracle.seal(&[&UPDATE[..], &[HANDSHAKE, 0, 0]].concat()));
        oracle.update();
        bytes.extend(oracle.record(DATA, &[0, 0, 0]));
        bytes.extend(oracle.record(ALERT, &[1, 0]));
        bytes.extend(b"bytes after close_notify are ignored");
        let expected = [
            vec![Content::Data(5..5 + PLAINTEXT_MAX), Content::Data(5..6)],
            vec![Content::Nothing; 7],
            vec![Content::KeyUpdateRequested, Content::Nothing, Content::Data(5..8), Content::Closed],
        ];
        check(suite, bytes, &Ok(expected.concat()));
    }
}

#[test]
fn bytes_after_close_notify_are_ignored() {
    let mut opener = Opener::new(Oracle::new(Suite::Aes128Gcm).secret(), 0);
    open_all(&mut opener, Oracle::new(Suite::Aes128Gcm).record(ALERT, &[1, 0])).unwrap();
    for bytes in [&b"junk"[..], &[23, 3, 3, 0xff, 0xff], &[]] {
        let expected = Opened { len: bytes.len(), content: Content::Closed };
        assert_eq!(opener.open(&mut bytes.to_vec()), Ok(Some(expected)));
    }
}

#[test]
fn records_without_data_are_limited_in_a_row_and_not_in_total() {
    type Make = fn(&mut Oracle) -> Vec<u8>;
    let kinds: [Make; 4] = [
        |o| o.record(DATA, &[]),
        |o| o.record(ALERT, &[1, 90]),
        |o| {
            let record = o.record(HANDSHAKE, &UPDATE);
            o.update();
            record
        },
        |o| {
            let record = o.record(HANDSHAKE, &REQUEST);
            o.update();
            record
        },
    ];
    for make in kinds {
        let mut oracle = Oracle::new(Suite::ChaCha20Poly1305);
        let mut opener = Opener::new(oracle.secret(), 0);
        for _round in 0..5 {
            for _record in 0..IDLE_RECORDS_MAX {
                assert!(open_all(&mut opener, make(&mut oracle)).is_ok());
            }
            assert!(open_all(&mut opener, oracle.record(DATA, b"x")).is_ok());
            // A session charges key updates to its quota.
            assert!(opener.take_key_updates() <= IDLE_RECORDS_MAX);
        }
        for _record in 0..IDLE_RECORDS_MAX {
            assert!(open_all(&mut opener, make(&mut oracle)).is_ok());
        }
        assert_eq!(open_all(&mut opener, make(&mut oracle)), Err(Violation::TooManyIdle));
    }
}

#[test]
fn key_updates_that_are_not_counted_are_limited_even_with_data_between() {
    let mut oracle = Oracle::new(Suite::Aes128Gcm);
    let mut opener = Opener::new(oracle.secret(), 0);
    let mut update = |opener: &mut Opener, message: &[u8]| {
        let record = oracle.record(HANDSHAKE, message);
        oracle.update();
        open_all(opener, record)?;
        open_all(opener, oracle.record(DATA, b"x"))
    };
    for count in 1..=KEY_UPDATES_MAX {
        assert!(update(&mut opener, if count % 2 == 0 { &UPDATE } else { &REQUEST }).is_ok());
        assert_eq!(opener.key_updates(), count);
    }
    assert_eq!(opener.take_key_updates(), KEY_UPDATES_MAX);
    for _ in 0..KEY_UPDATES_MAX {
        assert!(update(&mut opener, &UPDATE).is_ok());
    }
    assert_eq!(update(&mut opener, &UPDATE), Err(Violation::TooManyKeyUpdates));
    assert_eq!(Violation::TooManyKeyUpdates.alert(), Some(Alert::UnexpectedMessage));
}

#[test]
fn a_record_opens_only_when_it_is_complete() {
    let mut record = Oracle::new(Suite::Aes128Gcm).record(DATA, b"whole");
    let mut opener = Opener::new(Oracle::new(Suite::Aes128Gcm).secret(), 0);
    for len in 0..record.len() {
        assert_eq!(opener.open(&mut record[..len]), Ok(None));
    }
    assert_eq!(opener.open(&mut record), Ok(Some(Opened { len: 27, content: Content::Data(5..10) })));
    // The longest record that the opener waits for.
    assert_eq!(RECORD_MAX, 5 + BODY_MAX);
    let mut longest = vec![0; RECORD_MAX];
    longest[..5].copy_from_slice(&[23, 3, 3, 0x41, 0x00]);
    assert_eq!(opener.open(&mut longest[..RECORD_MAX - 1]), Ok(None));
    assert_eq!(opener.open(&mut longest), Err(Violation::NotAuthentic));
}

#[test]
fn no_record_opens_after_the_last_sequence_number() {
    for suite in Suite::ALL {
        let mut oracle = Oracle::new(suite);
        oracle.sequence = u64::MAX - 1;
        let mut opener = Opener::new(oracle.secret(), u64::MAX - 1);
        assert!(open_all(&mut opener, oracle.record(DATA, b"last")).is_ok());
        let record = Oracle::new(suite).record(DATA, b"one too many");
        assert_eq!(open_all(&mut opener, record), Err(Violation::Failed));
        assert_eq!(Violation::Failed.alert(), Some(Alert::InternalError));
    }
}
