//! Tests of sealed memory files.

use std::fs::File;
use std::io::Write;

use super::*;

fn record(content: &[u8]) -> Record {
    Record { kind: 1, version: 1, content: Zeroizing::new(content.to_vec()) }
}

#[test]
fn records_are_read_from_the_file_and_nobody_can_change_it() {
    let records = [record(b"one"), record(&vec![7; 100_000])];
    let (file, len) = write_sealed(&records, 200_000).unwrap();
    let bytes = read_sealed(&file, len, 200_000).unwrap();
    let contents: Vec<_> =
        crate::handover::records::Records::new(&bytes, 200_000).map(|record| record.unwrap().content.len()).collect();
    assert_eq!(contents, [3, 100_000]);
    let mut file = File::from(file);
    assert!(file.write(b"x").is_err() && file.set_len(1).is_err() && file.set_len(1 << 20).is_err());
}

#[test]
fn records_above_the_limit_are_not_written() {
    assert_eq!(write_sealed(&[record(&[0; 100])], 139).unwrap_err(), MemfdError::TooLong);
    assert!(write_sealed(&[record(&[0; 100])], 140).is_ok());
}

#[test]
fn a_file_of_another_length_or_without_seals_is_not_read() {
    let (file, len) = write_sealed(&[record(b"one")], 1000).unwrap();
    assert_eq!(read_sealed(&file, len + 1, 1000).unwrap_err(), MemfdError::Length);
    assert_eq!(read_sealed(&file, len - 1, 1000).unwrap_err(), MemfdError::Length);
    assert_eq!(read_sealed(&file, len, 10).unwrap_err(), MemfdError::TooLong);
    assert_eq!(read_sealed(&file, u64::MAX, 1000).unwrap_err(), MemfdError::TooLong);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let unsealed = memfd_create("test", flags).unwrap();
    write_all(&unsealed, b"x", 0).unwrap();
    assert_eq!(read_sealed(&unsealed, 1, 1000).unwrap_err(), MemfdError::NotSealed);
    fcntl_add_seals(&unsealed, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    assert_eq!(read_sealed(&unsealed, 1, 1000).unwrap_err(), MemfdError::NotSealed);
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(read_sealed(&socket, 1, 1000).unwrap_err(), MemfdError::NotSealed);
}
