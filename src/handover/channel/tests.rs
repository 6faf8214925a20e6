//! Tests of the channel, over real sockets.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::send;

use super::*;

const SECOND: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn channels() -> (Channel, Channel) {
    let (old, new) = pair().unwrap();
    (Channel::of_old(old).unwrap(), Channel::of_new(new, getpid()).unwrap())
}

#[test]
fn descriptors_arrive_in_order_and_are_closed_on_exec() {
    block_on(async {
        let (old, new) = channels();
        let sockets: Vec<_> = (0..DESCRIPTORS_MAX / 2).map(|_| UnixStream::pair().unwrap()).collect();
        let descriptors: Vec<_> = sockets.iter().map(|(own, _)| own.as_fd()).collect();
        old.send(&Message::TakeOver, &descriptors, SECOND).await.unwrap();
        let received = new.receive(SECOND).await.unwrap();
        assert_eq!((received.message, received.descriptors_lost), (Message::TakeOver, false));
        assert_eq!(received.descriptors.len(), sockets.len());
        for (descriptor, (_, other)) in received.descriptors.into_iter().zip(sockets) {
            assert!(fcntl_getfd(&descriptor).unwrap().contains(FdFlags::CLOEXEC));
            send(&descriptor, b"x", SendFlags::empty()).unwrap();
            let mut byte = [0];
            std::io::Read::read_exact(&mut &other, &mut byte).unwrap();
        }
    });
}

#[test]
fn more_descriptors_than_the_kernel_passes_are_an_error() {
    block_on(async {
        let (old, _new) = channels();
        let (socket, _) = UnixStream::pair().unwrap();
        let descriptors = vec![socket.as_fd(); DESCRIPTORS_MAX + 1];
        let error = old.send(&Message::Ready, &descriptors, SECOND).await.unwrap_err();
        assert_eq!(error.to_string(), "254 descriptors do not fit into one message; at most 253 do");
        old.send(&Message::Ready, &descriptors[1..], SECOND).await.unwrap();
    });
}

#[test]
fn a_full_socket_is_waited_for_and_then_an_error() {
    block_on(async {
        let (old, new) = channels();
        let text = Message::failed(&"x".repeat(8000));
        let mut sent = 0;
        let error = loop {
            match old.send(&text, &[], SHORT).await {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(sent > 0 && matches!(error, ChannelError::TimedOut(SHORT)), "{sent} {error}");
        let reading = async {
            for _ in 0..=sent {
                assert!(matches!(new.receive(SECOND).await, Err(ChannelError::Failed(text)) if text.len() == 8000));
            }
        };
        let (result, ()) = tokio::join!(old.send(&text, &[], SECOND), reading);
        result.unwrap();
    });
}

#[test]
fn messages_sent_before_the_end_are_received_before_it() {
    block_on(async {
        let (old, new) = channels();
        // The new process ends with an unread message.
        old.send(&Message::TakeOver, &[], SECOND).await.unwrap();
        new.send(&Message::Ready, &[], SECOND).await.unwrap();
        drop(new);
        assert_eq!(old.receive(SECOND).await.unwrap().message, Message::Ready);
        assert!(matches!(old.receive(SECOND).await, Err(ChannelError::Closed)));
        assert!(matches!(old.send(&Message::Ready, &[], SECOND).await, Err(ChannelError::Closed)));
    });
}

#[test]
fn a_silent_peer_is_waited_for_only_this_long() {
    block_on(async {
        let (old, _new) = channels();
        assert!(matches!(old.receive(SHORT).await, Err(ChannelError::TimedOut(SHORT))));
    });
}

#[test]
fn packets_that_are_no_messages_are_errors() {
    block_on(async {
        let (old, new) = channels();
        let raw = |bytes: &[u8]| send(old.socket.get_ref(), bytes, SendFlags::empty()).unwrap();
        raw(b"short");
        assert!(matches!(new.receive(SECOND).await, Err(ChannelError::Wire(WireError::Length))));
        raw(&vec![0; MESSAGE_MAX_BYTES + 1]);
        assert!(matches!(new.receive(SECOND).await, Err(ChannelError::Truncated)));
        raw(&[3, 0, 9, 0, 0, 0, 0, 0]);
        assert!(matches!(new.receive(SECOND).await, Err(ChannelError::Wire(WireError::Version(9)))));
    });
}

#[test]
fn only_a_pair_of_packet_sockets_of_the_old_process_is_a_channel() {
    block_on(async {
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(matches!(Channel::of_old(stream.into()), Err(ChannelError::Peer(_))));
        let (old, _new) = pair().unwrap();
        let error = Channel::of_new(old, Pid::INIT).unwrap_err();
        assert_eq!(error.to_string(), "the socket of the handover: it belongs to another process");
    });
}

#[test]
fn missing_descriptors_have_clear_errors() {
    for (errno, text) in [
        (Errno::MFILE, "no descriptor is left"),
        (
            Errno::TOOMANYREFS,
            "too many descriptors are in flight between processes of this user; the limit is the \
                              limit on open files",
        ),
    ] {
        assert_eq!(ChannelError::from(errno).to_string(), text);
    }
}
