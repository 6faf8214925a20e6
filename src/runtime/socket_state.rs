//! Reads the state of a socket from the kernel, where tokio's view is older or less detailed.
//!
//! It covers unread bytes, writability, a disconnect and unacknowledged bytes.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl;

/// The current state of a socket in the kernel. tokio observes it only when its I/O driver is polled next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of poll(2), in any combination with the others")]
pub struct SocketState {
    /// Bytes or the end of the stream are unread.
    pub readable: bool,
    /// The send buffer accepts bytes.
    pub writable: bool,
    /// The peer has shut down its sending direction, or the connection is lost, even if earlier bytes are unread.
    pub peer_closed: bool,
    /// The connection is closed in both directions, as after a reset.
    pub disconnected: bool,
}

impl SocketState {
    /// Reads the state with one system call, without waiting.
    pub fn of(socket: BorrowedFd<'_>) -> Self {
        let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::IN | PollFlags::OUT | PollFlags::RDHUP)];
        // If `poll` fails, all flags are clear.
        let ready = poll(&mut polled, Some(&Timespec::default())).unwrap_or_default();
        let [polled] = polled;
        let flags = if ready == 0 { PollFlags::empty() } else { polled.revents() };
        Self {
            readable: flags.intersects(PollFlags::IN),
            writable: flags.intersects(PollFlags::OUT),
            peer_closed: flags.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
            disconnected: flags.intersects(PollFlags::HUP | PollFlags::ERR),
        }
    }
}

/// Returns how many bytes written to a socket the peer's kernel has not acknowledged: `SIOCOUTQ` of tcp(7). For a Unix
/// socket it returns the memory of the bytes that the peer has not read, which is more than their number (unix(7)).
/// Returns zero if the request fails.
#[expect(unsafe_code, reason = "no maintained crate wraps this request in a safe function")]
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> u64 {
    /// An alias of `TIOCOUTQ`. This is its value on every architecture that uses `asm-generic/ioctls.h`.
    const SIOCOUTQ: ioctl::Opcode = 0x5411;
    // SAFETY: for a stream socket the kernel writes one `int` to the given address, for which `Getter` with this type
    // provides the memory. For any other descriptor the request fails, and the kernel writes nothing or one `int`.
    let request = unsafe { ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new() };
    // SAFETY: as above. The request changes only that `int`, and the descriptor is open while it is borrowed.
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
    fn unread_bytes_and_a_half_close_behind_them_are_both_reported() {
        let (near, mut far) = pair();
        assert_eq!(SocketState::of(near.as_fd()), SocketState { writable: true, ..SocketState::default() });
        far.write_all(b"x").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        // Loopback delivers both before the calls return.
        let state = SocketState::of(near.as_fd());
        assert_eq!(state, SocketState { readable: true, writable: true, peer_closed: true, disconnected: false });
    }

    #[test]
    fn a_reset_is_reported_as_a_disconnect() {
        let (near, far) = pair();
        socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        let state = SocketState::of(near.as_fd());
        assert!(state.peer_closed && state.disconnected, "{state:?}");
    }

    #[test]
    fn bytes_that_the_peer_cannot_buffer_are_unacknowledged() {
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
