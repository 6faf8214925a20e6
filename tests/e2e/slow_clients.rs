//! Clients that are slower than their upstream, by each value of `on_slow_client`.

use std::io::Read as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{BINARY, CONTINUATION, Frame, PING};

/// Opens a session whose client receives little before it reads.
fn open_small(gate: &Gate, upstream: &Upstream) -> Session {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&gate.address().into()).unwrap();
    let client = Client::handshake(TcpStream::from(socket), pki::plain_client_config(), "chat.example.com");
    Session::open_over(client, upstream, &Request::to("/open/"), &[])
}

/// A message with its number, in two fragments if the number is odd.
fn numbered(number: u32) -> Vec<u8> {
    let payload = [&number.to_be_bytes()[..], &[0x5a; 2_000]].concat();
    if number.is_multiple_of(2) {
        return Frame::new(BINARY, payload).bytes();
    }
    let (first, rest) = payload.split_at(700);
    [Frame::new(BINARY, first).unfinished().bytes(), Frame::new(CONTINUATION, rest).bytes()].concat()
}

/// Reads a message and returns its number; `None` for a ping.
fn read_numbered(client: &mut Client) -> Option<u32> {
    let first = client.frame();
    if first.opcode == PING {
        return None;
    }
    assert_eq!(first.opcode, BINARY, "a message begins");
    let mut payload = first.payload;
    if !first.fin {
        let rest = client.frame();
        assert!(rest.opcode == CONTINUATION && rest.fin);
        payload.extend(rest.payload);
    }
    let (number, filler) = payload.split_first_chunk::<4>().unwrap();
    assert!(filler.len() == 2_000 && filler.iter().all(|byte| *byte == 0x5a), "the message is whole");
    Some(u32::from_be_bytes(*number))
}

#[test]
fn the_oldest_messages_of_a_client_that_does_not_keep_up_are_dropped() {
    for layer in ["own", "rustls"] {
        drop_oldest(layer);
    }
}

fn drop_oldest(layer: &str) {
    const MESSAGES: u32 = 10_000;
    let upstream = Upstream::bind();
    let limits = "on_slow_client = \"drop_oldest\"\nslow_client_buffer = \"256KiB\"\nwrite_timeout = \"5m\"";
    let gate = Setup::new().server(&format!("record_layer = \"{layer}\"")).limits(limits).start(&upstream);
    let mut session = open_small(&gate, &upstream);
    // The upstream is never blocked, although the client reads nothing.
    session.server.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    for number in 0..MESSAGES {
        session.server.send(&numbered(number));
        if number == MESSAGES - 10 {
            session.server.send_frame(Frame::new(PING, "in its place"));
        }
    }
    let mut received = Vec::new();
    let mut pinged_after = None;
    while received.last() != Some(&(MESSAGES - 1)) {
        match read_numbered(&mut session.client) {
            Some(number) => received.push(number),
            None => pinged_after = received.last().copied(),
        }
    }
    assert!(received.is_sorted_by(|a, b| a < b), "in order and once");
    // The newest messages are those that remain.
    assert!((MESSAGES - 50..MESSAGES).all(|number| received.contains(&number)));
    assert_eq!(pinged_after, Some(MESSAGES - 10), "a control frame keeps its place");
    let dropped = u64::from(MESSAGES) - received.len() as u64;
    assert!(dropped > 1_000, "{dropped}");
    // The kernel holds little, so the client gets no old messages first. By default it would hold megabytes.
    assert!(received.len() < 1_000, "{}", received.len());
    // A client that has caught up gets everything again.
    session.echo("caught up");
    session.close();
    let line = gate.log.next("messages dropped for a slow client");
    assert_eq!(line["route"], "open", "{line}");
    let line = gate.log.next("session ended");
    assert_eq!((&line["dropped"], &line["messages_out"]), (&json!(dropped), &json!(MESSAGES + 1)), "{line}");
    assert_eq!(gate.log.count(|line| line.contains("messages dropped for a slow client")), 1);
}

#[test]
fn a_route_that_drops_messages_negotiates_no_compression() {
    let upstream = Upstream::bind();
    let request = Request::to("/open/").with("Sec-WebSocket-Extensions: permessage-deflate");
    for (limits, offered) in [("", Some("permessage-deflate")), ("on_slow_client = \"drop_oldest\"", None)] {
        let gate = Setup::new().limits(limits).start(&upstream);
        let session = Session::open_with(&gate, &upstream, &request, &[]);
        assert_eq!(session.asked.get("Sec-WebSocket-Extensions"), offered, "{limits}");
        session.close();
    }
}

/// The client reads all the time, so it is never blocked for `write_timeout`, but what it reads is older than that.
#[test]
fn a_client_whose_data_waits_too_long_is_closed_although_it_reads() {
    let upstream = Upstream::bind();
    let limits = "on_slow_client = \"close\"\nwrite_timeout = \"1s\"\nclose_timeout = \"500ms\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    let Session { mut client, mut server, .. } = open_small(&gate, &upstream);
    let flooding = thread::spawn(move || while server.try_send_frame(Frame::new(BINARY, vec![0; 60 << 10])).is_ok() {});
    // What the kernel holds unsent takes it more than a second.
    for _ in 0..150 {
        let mut chunk = [0; 3 << 10];
        if client.stream.sock.read(&mut chunk).is_ok_and(|n| n > 0) {
            thread::sleep(Duration::from_millis(40));
        }
    }
    drop(client);
    flooding.join().unwrap();
    let line = gate.log.next("session ended");
    assert_eq!((&line["cause"], &line["code"]), (&json!("slow_client"), &json!(1008)), "{line}");
    assert_eq!(line["reason"], "slow consumer");
}

/// The client is blocked again and again, since the upstream is faster, but its data is never old.
#[test]
fn a_client_that_reads_as_fast_as_it_can_is_not_closed() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("on_slow_client = \"close\"\nwrite_timeout = \"1s\"").start(&upstream);
    let Session { mut client, mut server, .. } = open_small(&gate, &upstream);
    let flooding = thread::spawn(move || while server.try_send_frame(Frame::new(BINARY, vec![0; 60 << 10])).is_ok() {});
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(client.frame().opcode, BINARY);
    }
    drop(client);
    flooding.join().unwrap();
    assert_eq!(gate.log.next("session ended")["cause"], "client_gone");
}
