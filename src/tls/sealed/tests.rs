//! Tests of streams over real sockets.

use std::future::poll_fn;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::record::{Suite, TrafficSecret};
use crate::runtime::socket::DetachedSocket;

fn secret(byte: u8) -> TrafficSecret {
    TrafficSecret::new(Suite::Aes128Gcm, &[byte; 32]).unwrap()
}

/// Returns a stream, the client's end of its socket, and the client's sealer.
async fn pair() -> (SealedStream, TcpStream, Sealer) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (opener, sealer) = (Opener::new(secret(1), 0), Sealer::new(secret(2), 0));
    (SealedStream::new(stream.into(), opener, sealer, Leftover::default()), client, Sealer::new(secret(1), 0))
}

fn record(sealer: &mut Sealer, bytes: &[u8]) -> Vec<u8> {
    let mut area = vec![0; Sealer::sealed_max(bytes.len()) + 64];
    let Sealed { written, .. } = sealer.seal(ContentType::ApplicationData, bytes, &mut area).unwrap();
    area.truncate(written);
    area
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Reads once. Returns the number of bytes read and the number of key updates.
async fn read(stream: &mut SealedStream, area: &mut [u8]) -> (usize, u8) {
    let n = poll_fn(|cx| {
        let mut buf = ReadBuf::new(area);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf)).unwrap();
        Poll::Ready(buf.filled().len())
    })
    .await;
    (n, stream.take_key_updates())
}

#[test]
fn one_read_opens_a_bounded_number_of_records_and_none_is_lost() {
    block_on(async {
        let (mut stream, mut client, mut sealer) = pair().await;
        let sent: Vec<u8> = (0..2_000_u32).map(|number| (number % 251) as u8).collect();
        let records: Vec<u8> = sent.iter().flat_map(|byte| record(&mut sealer, &[*byte])).collect();
        client.write_all(&records).await.unwrap();
        let (mut received, mut area) = (Vec::new(), vec![0; 64 * 1024]);
        // A later read may have a smaller buffer than the bytes that an earlier one left over need.
        for area_len in [64 * 1024, 64 * 1024, RECORD_MAX].into_iter().chain(std::iter::repeat(1024)) {
            if received.len() == sent.len() {
                break;
            }
            let area = &mut area[..area_len];
            let (n, _) = read(&mut stream, area).await;
            assert!(n > 0 && n <= RECORDS_AT_ONCE, "{n} records in one read");
            received.extend_from_slice(&area[..n]);
        }
        assert_eq!(received, sent);
        assert!(stream.received.capacity() == 0 && stream.plain.capacity() == 0, "an idle stream owns no buffer");
        // A stream that stops within a record keeps only the bytes of that record.
        let records: Vec<u8> = (0..1_000).flat_map(|_| record(&mut sealer, b"x")).collect();
        client.write_all(&[&records[..], &record(&mut sealer, b"x")[..3]].concat()).await.unwrap();
        let mut received = 0;
        while received < 1_000 {
            received += read(&mut stream, &mut area).await.0;
        }
        assert!(stream.received.len() == 3 && stream.received.capacity() <= 64, "{}", stream.received.capacity());
    });
}

#[test]
fn one_read_takes_a_bounded_number_of_key_updates() {
    block_on(async {
        let (mut stream, mut client, mut sealer) = pair().await;
        let mut records = Vec::new();
        for number in 0..200_u8 {
            sealer.update_key();
            records.extend(record(&mut sealer, &[number]));
        }
        client.write_all(&records).await.unwrap();
        let (mut received, mut area, mut key_updates) = (Vec::new(), vec![0; 64 * 1024], 0);
        while received.len() < 200 {
            let (n, updates) = read(&mut stream, &mut area).await;
            assert!(updates <= KEY_UPDATES_AT_ONCE, "{updates} key updates in one read");
            received.extend_from_slice(&area[..n]);
            key_updates += u32::from(updates);
        }
        assert_eq!((received, key_updates), ((0..200).collect(), 200));
    });
}

#[test]
fn key_updates_that_are_not_counted_end_the_stream() {
    block_on(async {
        let (mut stream, mut client, mut sealer) = pair().await;
        for number in 0..=crate::record::KEY_UPDATES_MAX {
            sealer.update_key();
            client.write_all(&record(&mut sealer, &[number])).await.unwrap();
        }
        let mut received = Vec::new();
        let error = stream.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert_eq!(received.len(), usize::from(crate::record::KEY_UPDATES_MAX));
    });
}

/// Continues the stream from its state, after the state was written as another process would receive it.
fn moved(stream: SealedStream) -> SealedStream {
    let (socket, state) = stream.into_parts();
    let bytes = postcard::to_allocvec(&state).unwrap();
    drop(state);
    let (state, rest) = postcard::take_from_bytes::<SealedState>(&bytes).unwrap();
    assert!(rest.is_empty());
    let socket = socket.detach().unwrap();
    let socket = DetachedSocket::from_descriptor(socket.into()).unwrap();
    state.into_stream(socket.attach().unwrap()).unwrap()
}

#[test]
fn a_stream_continues_from_its_state_at_any_byte_of_a_record() {
    block_on(async {
        let (mut stream, mut client, mut sealer) = pair().await;
        let mut opener = Opener::new(secret(2), 0);
        let (mut area, mut number) = (vec![0; 64 * 1024], 0_u8);
        // The client requests a key update with every third message, and sends one of its own.
        for cut in 0..60 {
            number += 1;
            if number.is_multiple_of(3) {
                sealer.update_key();
            }
            let bytes = record(&mut sealer, &[number; 16]);
            let cut = cut.min(bytes.len());
            client.write_all(&bytes[..cut]).await.unwrap();
            if cut > 0 {
                // The start of the record has arrived.
                poll_fn(|cx| stream.socket().poll_read_ready(cx)).await.unwrap();
                let mut buf = ReadBuf::new(&mut area);
                let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_read(cx, &mut buf).is_ready())).await;
            }
            stream = moved(stream);
            client.write_all(&bytes[cut..]).await.unwrap();
            if cut < bytes.len() {
                let (n, _) = read(&mut stream, &mut area).await;
                assert_eq!(&area[..n], [number; 16]);
            }
            stream = moved(stream);
            stream.write_all(&[number; 8]).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = vec![0; 8 + crate::record::OVERHEAD];
            client.read_exact(&mut answer).await.unwrap();
            let Content::Data(range) = opener.open(&mut answer).unwrap().unwrap().content else { panic!("no data") };
            assert_eq!(&answer[range], [number; 8], "after {cut} bytes");
        }
    });
}

#[test]
fn unsent_records_and_unread_plaintext_move() {
    block_on(async {
        let (mut stream, mut client, mut sealer) = pair().await;
        // The client reads nothing until the socket takes no more.
        let mut sent = 0_usize;
        loop {
            let chunk = [u8::try_from(sent % 251).unwrap(); 16 * 1024];
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &chunk))).await {
                Poll::Ready(n) => sent += usize::from(n.unwrap() == chunk.len()),
                Poll::Pending => break,
            }
        }
        assert!(stream.holds_back());
        // A reader with a small buffer leaves plaintext in the stream.
        client.write_all(&record(&mut sealer, b"0123456789")).await.unwrap();
        let mut small = [0; 4];
        stream.read_exact(&mut small).await.unwrap();
        let mut stream = moved(stream);
        assert!(stream.holds_back());
        let mut rest = [0; 6];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!((&small, &rest), (b"0123", b"456789"));
        let reader = async {
            let (mut opener, mut bytes, mut messages) = (Opener::new(secret(2), 0), Vec::new(), 0_usize);
            let mut at = 0;
            while messages < sent {
                let Some(record) = opener.open(&mut bytes[at..]).unwrap() else {
                    bytes.drain(..at);
                    at = 0;
                    assert!(client.read_buf(&mut bytes).await.unwrap() > 0);
                    continue;
                };
                let Content::Data(range) = record.content else { panic!("no data") };
                let expected = u8::try_from(messages % 251).unwrap();
                assert!(bytes[at + range.start..at + range.end].iter().all(|byte| *byte == expected));
                messages += 1;
                at += record.len;
            }
        };
        let (flushed, ()) = tokio::join!(stream.flush(), reader);
        flushed.unwrap();
    });
}
