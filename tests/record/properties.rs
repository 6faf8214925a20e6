//! Properties of the record layer that hold for every sequence of operations and for every input.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tollgate::record::{Alert, Content, ContentType, Opened, Opener, PLAINTEXT_MAX, SealError, Sealed, Sealer, Suite};

use super::oracle::Oracle;

#[derive(Debug, Clone)]
enum Operation {
    /// Plaintext of this length, into a buffer of this length.
    Seal(usize, usize),
    Update,
    Hibernate,
    Close,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (0..300_usize, 0..400_usize).prop_map(|(len, room)| Operation::Seal(len, room)),
        2 => (0..3 * PLAINTEXT_MAX, 0..4 * PLAINTEXT_MAX).prop_map(|(len, room)| Operation::Seal(len, room)),
        2 => Just(Operation::Update),
        2 => Just(Operation::Hibernate),
        1 => Just(Operation::Close),
    ]
}

proptest! {
    /// Every record opens under the number after that of the previous record, starting at 0 under the next secret. So
    /// no nonce is used twice with one key. No key seals more records than its limit.
    #[test]
    fn a_nonce_is_never_used_twice(
        suite in select(&Suite::ALL[..]),
        before_limit in 1..40_u64,
        operations in vec(operation(), 0..40),
    ) {
        let mut oracle = Oracle::new(suite);
        oracle.sequence = suite.records_max() - before_limit;
        let mut sealer = Sealer::new(oracle.secret(), oracle.sequence);
        let (mut sent, mut received, mut closed, mut number) = (Vec::new(), Vec::new(), false, 0_u8);
        for operation in operations {
            match operation {
                Operation::Seal(len, room) => {
                    number = number.wrapping_add(1);
                    let plaintext = vec![number; len];
                    let mut out = vec![0; room];
                    let sealed = sealer.seal(ContentType::ApplicationData, &plaintext, &mut out);
                    prop_assert_eq!(sealed.is_err(), closed);
                    let Ok(Sealed { taken, written }) = sealed else { continue };
                    prop_assert!(taken == len || room < Sealer::sealed_max(len));
                    sent.extend_from_slice(&plaintext[..taken]);
                    let mut records = out[..written].to_vec();
                    while !records.is_empty() {
                        prop_assert!(oracle.sequence < suite.records_max());
                        match oracle.open(&mut records) {
                            (content, 23) => received.extend(content),
                            (content, content_type) => {
                                prop_assert_eq!((&content[..], content_type), (&[24, 0, 0, 1, 0][..], 22));
                                oracle.update();
                            }
                        }
                    }
                    prop_assert_eq!(&sent, &received);
                }
                Operation::Update => sealer.update_key(),
                Operation::Hibernate => sealer.hibernate(),
                Operation::Close => {
                    let mut out = vec![0; Sealer::sealed_max(2)];
                    let sealed = sealer.alert(Alert::CloseNotify, &mut out);
                    prop_assert_eq!(sealed.is_err(), closed);
                    closed = true;
                    let Ok(written) = sealed else { continue };
                    out.truncate(written);
                    let mut first = oracle.open(&mut out);
                    if first.1 == 22 {
                        oracle.update();
                        first = oracle.open(&mut out);
                    }
                    prop_assert_eq!((first, out.len()), ((vec![1, 0], 21), 0));
                }
            }
        }
    }

    /// Sealed records open to the same plaintext, for any sizes, splits, key updates and hibernations of both ends.
    #[test]
    fn sealed_records_open_to_the_same_plaintext(
        suite in select(&Suite::ALL[..]),
        before_limit in 1..10_u64,
        operations in vec(operation(), 0..20),
        cuts in vec(1..40_000_usize, 1..20),
    ) {
        let (mut sealer, mut opener) = pair(suite, suite.records_max() - before_limit);
        let (mut sent, mut records, mut updates) = (Vec::new(), Vec::new(), 0);
        for operation in operations {
            match operation {
                Operation::Seal(len, _) => {
                    let mut out = vec![0; Sealer::sealed_max(len)];
                    let sealed = sealer.seal(ContentType::ApplicationData, &vec![b'x'; len], &mut out).unwrap();
                    prop_assert_eq!(sealed.taken, len);
                    records.extend_from_slice(&out[..sealed.written]);
                    sent.resize(sent.len() + len, b'x');
                }
                Operation::Update => { sealer.update_key(); updates += 1; }
                Operation::Hibernate | Operation::Close => { sealer.hibernate(); opener.hibernate(); }
            }
        }
        prop_assert!(updates < 32);
        let (mut buffer, mut received, mut cuts) = (Vec::new(), Vec::new(), cuts.into_iter().cycle());
        while !records.is_empty() {
            let rest = records.split_off(cuts.next().unwrap().min(records.len()));
            buffer.append(&mut records);
            records = rest;
            while let Some(Opened { len, content }) = opener.open(&mut buffer).unwrap() {
                if let Content::Data(range) = content {
                    received.extend_from_slice(&buffer[range]);
                }
                buffer.drain(..len);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(sent, received);
    }

    /// No input makes the opener panic, and a record that is not authentic never opens.
    #[test]
    fn junk_never_opens(suite in select(&Suite::ALL[..]), mut junk in vec(any::<u8>(), 0..600), header: bool) {
        let (_, mut opener) = pair(suite, 0);
        if header && junk.len() >= 5 {
            let len = u16::try_from(junk.len() - 5).unwrap().to_be_bytes();
            junk[..5].copy_from_slice(&[23, 3, 3, len[0], len[1]]);
        }
        if let Ok(opened) = opener.open(&mut junk) {
            prop_assert_eq!(opened, None);
        }
    }
}

fn pair(suite: Suite, sequence: u64) -> (Sealer, Opener) {
    let oracle = Oracle::new(suite);
    (Sealer::new(oracle.secret(), sequence), Opener::new(oracle.secret(), sequence))
}

#[test]
fn a_sequence_number_never_wraps() {
    for suite in Suite::ALL {
        // No number is left even for the `KeyUpdate` that is due.
        let mut sealer = Sealer::new(Oracle::new(suite).secret(), u64::MAX);
        for _try in 0..2 {
            let result = sealer.seal(ContentType::ApplicationData, b"x", &mut [0; 256]);
            assert_eq!(result, Err(SealError::Failed));
        }
    }
}

#[test]
fn a_buffer_that_is_too_small_takes_no_plaintext_and_no_sequence_number() {
    let (mut sealer, mut opener) = pair(Suite::Aes128Gcm, 0);
    for room in 0..=22 {
        let result = sealer.seal(ContentType::ApplicationData, b"x", &mut vec![0; room]).unwrap();
        assert_eq!(result, Sealed { taken: 0, written: 0 });
    }
    let mut out = [0; 23];
    sealer.seal(ContentType::ApplicationData, b"x", &mut out).unwrap();
    assert!(matches!(opener.open(&mut out), Ok(Some(Opened { len: 23, content: Content::Data(_) }))));
}
