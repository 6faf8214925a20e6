//! Tests of the list of records.

use super::*;

fn list(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(|record| [&record.header().unwrap()[..], &record.content].concat()).collect()
}

fn record(kind: u16, content: &[u8]) -> Record {
    Record { kind, version: 3, content: Zeroizing::new(content.to_vec()) }
}

fn two() -> Vec<u8> {
    list(&[record(1, b"first"), record(2, b"second")])
}

#[test]
fn records_are_read_as_they_were_written() {
    let bytes = two();
    let read: Vec<_> = Records::new(&bytes, 6).map(|record| record.unwrap()).collect();
    let expected = [(1, 3, &b"first"[..]), (2, 3, b"second")];
    assert_eq!(read, expected.map(|(kind, version, content)| RecordRef { kind, version, content }));
}

#[test]
fn each_flipped_bit_is_detected() {
    let bytes = two();
    let first = HEADER_BYTES + 5;
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read: Vec<_> = Records::new(&bytes, 1 << 20).collect();
        let damaged = usize::from(bit / 8 >= first);
        assert!(read[damaged].is_err(), "bit {bit}");
        let in_length = (4..8).contains(&(bit / 8));
        // A damaged content or checksum does not hide the record after it.
        assert!(damaged == 1 || in_length || read[1].is_ok(), "bit {bit}");
    }
}

#[test]
fn a_list_that_ends_within_a_record_is_an_error() {
    let bytes = two();
    let first = HEADER_BYTES + 5;
    for len in (1..bytes.len()).filter(|len| *len != first) {
        let last = Records::new(&bytes[..len], 6).last().unwrap();
        assert_eq!(last, Err(RecordError::Truncated), "{len}");
    }
}

#[test]
fn a_record_above_the_limit_ends_the_list() {
    let bytes = two();
    let read: Vec<_> = Records::new(&bytes, 5).collect();
    assert_eq!(read.len(), 2);
    assert_eq!(read[1], Err(RecordError::TooLong));
}

#[test]
fn the_number_of_records_is_limited() {
    let bytes = list(&(0..=RECORDS_MAX).map(|_| record(1, b"")).collect::<Vec<_>>());
    let mut read = Records::new(&bytes, 5).skip(RECORDS_MAX);
    assert_eq!((read.next(), read.next()), (Some(Err(RecordError::TooMany)), None));
}

#[test]
fn values_are_decoded_as_they_were_encoded() {
    let value = (7_u32, "text".to_owned(), vec![1_u8, 2]);
    let mut content = encode(&value, 9).unwrap();
    assert_eq!(encode(&value, content.len() - 1).unwrap_err(), RecordError::TooLong);
    assert_eq!(decode::<(u32, String, Vec<u8>)>(&content).unwrap(), value);
    assert_eq!(decode::<(u32, String, Vec<u8>)>(&content[..4]), Err(RecordError::Content));
    content.push(0);
    assert_eq!(decode::<(u32, String, Vec<u8>)>(&content), Err(RecordError::Trailing));
}

#[test]
fn debug_shows_no_content() {
    let text = format!("{:?} {:?}", record(1, b"secret"), Records::new(&two(), 9));
    assert_eq!(text, "Record { kind: 1, version: 3, length: 6 } Records { rest: 91, .. }");
}
