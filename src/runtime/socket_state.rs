//! The kernel's view of a socket, where tokio's is older or says less: unread bytes, room, a disconnect, unacknowledged bytes.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl;

/// The state of a socket in the kernel at this moment. tokio learns of it when its driver is polled next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of poll(2), in any combination with the others")]
pub struct SocketState {
    /// There are unread bytes, or the end of the stream is unread.
    pub readable: bool,
    /// The socket takes bytes.
    pub writable: bool,
    /// The peer has closed its direction or is gone, whether or not bytes before that are unread.
    pub peer_closed: bool,
    /// The connection is gone in both directions, as after a reset.
    pub disconnected: bool,
}

impl SocketState {
    /// Asks the kernel, without waiting: one system call.
    pub fn of(socket: BorrowedFd<'_>) -> Self {
        let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP)];
        // If the kernel cannot say it, nothing is known.
        let answered = poll(&mut asked, Some(&Timespec::default())).unwrap_or_default();
        let [asked] = asked;
        let flags = if answered == 0 { PollFlags::empty() } else { asked.revents() };
        Self {
            readable: flags.intersects(PollFlags::IN),
            writable: flags.intersects(PollFlags::OUT),
            peer_closed: flags.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
            disconnected: flags.intersects(PollFlags::HUP | PollFlags::ERR),
        }
    }
}

/// How many of the bytes that were written to a socket the peer's kernel has not acknowledged: `SIOCOUTQ` of tcp(7). Over a
/// Unix socket it is the memory of what the peer has not read, which is more than its bytes (unix(7)). Zero if the kernel
/// cannot say it.
#[expect(unsafe_code, reason = "no crate that is well kept wraps this request in a safe function")]
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> u64 {
    /// `TIOCOUTQ` by another name; the value of every architecture that has `asm-generic/ioctls.h`.
    const SIOCOUTQ: ioctl::Opcode = 0x5411;
    // SAFETY: the kernel answers this request on a stream socket by writing one `int` to the address that it is given, which
    // is what `Getter` with this type provides. Any other descriptor answers with an error and writes nothing or an `int`.
    let request = unsafe { ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new() };
    // SAFETY: as above; the request changes no memory but that `int`, and the descriptor is open while it is borrowed.
    let bytes = unsafe { ioctl::ioctl(socket, request) }.unwrap_or_default();
    u64::try_from(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_socket_with_unread_bytes_is_readable_and_one_whose_peer_closed_is_known() {
        let (near, mut far) = pair();
        assert_eq!(SocketState::of(near.as_fd()), SocketState { writable: true, ..SocketState::default() });
        far.write_all(b"x").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        // Loopback delivers both before the calls return.
        let state = SocketState::of(near.as_fd());
        assert_eq!(state, SocketState { readable: true, writable: true, peer_closed: true, disconnected: false });
    }

    #[test]
    fn a_reset_is_a_disconnect_and_an_end_of_one_direction_is_none() {
        let (near, far) = pair();
        socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        let state = SocketState::of(near.as_fd());
        assert!(state.peer_closed && state.disconnected, "{state:?}");
    }

    #[test]
    fn bytes_that_a_full_peer_does_not_take_are_unacknowledged() {
        let (mut near, mut far) = pair();
        assert_eq!(unacknowledged_bytes(near.as_fd()), 0);
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = near.write(&vec![0; 64 * 1024]) {
            written += n as u64;
        }
        assert!(!SocketState::of(near.as_fd()).writable);
        let before = unacknowledged_bytes(near.as_fd());
        assert!(before > 0 && before <= written, "{before} of {written}");
        let mut buffer = vec![0; usize::try_from(written).unwrap()];
        far.read_exact(&mut buffer).unwrap();
        assert!(unacknowledged_bytes(near.as_fd()) < before);
    }
}
