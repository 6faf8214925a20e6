//! The channel between the old and the new process: a pair of sockets that carries messages and descriptors.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{socket_peercred, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, geteuid, getpid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::readiness::register;
use super::wire::{DESCRIPTORS_MAX, MESSAGE_MAX_BYTES, Message, WireError};

/// One end of the channel. Its peer has been checked.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
}

/// A message, and the descriptors that came with it.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// The descriptors that arrived, in order.
    pub descriptors: Vec<OwnedFd>,
    /// Whether the system had no descriptor for the remaining ones, which are lost.
    pub descriptors_lost: bool,
}

/// Why the channel does not carry a message.
#[derive(Debug)]
pub enum ChannelError {
    /// The peer has closed its end, or has ended.
    Closed,
    /// The peer did not read or write within this time.
    TimedOut(Duration),
    /// The socket is not the end of a pair that the old process has made: why.
    Peer(&'static str),
    /// A message is not of this protocol, or too long.
    Wire(WireError),
    /// The packet was longer than the buffer.
    Truncated,
    /// The number of descriptors exceeds [`DESCRIPTORS_MAX`].
    TooManyDescriptors(usize),
    /// Another message was expected: its name.
    Unexpected(&'static str),
    /// The peer does not continue, for this reason.
    Failed(String),
    /// A system call failed.
    System(io::Error),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the other process has ended"),
            Self::TimedOut(limit) => write!(f, "the other process did not answer within {limit:?}"),
            Self::Peer(reason) => write!(f, "the socket of the handover: {reason}"),
            Self::Wire(error) => error.fmt(f),
            Self::Truncated => f.write_str("a message is too long"),
            Self::TooManyDescriptors(count) => {
                write!(f, "{count} descriptors do not fit into one message; at most {DESCRIPTORS_MAX} do")
            }
            Self::Unexpected(name) => write!(f, "the message {name} was not expected"),
            Self::Failed(reason) => f.write_str(reason),
            Self::System(error) => match Errno::from_io_error(error) {
                Some(Errno::TOOMANYREFS) => f.write_str(
                    "too many descriptors are in flight between processes of this user; the limit is the limit on \
                     open files",
                ),
                Some(Errno::MFILE | Errno::NFILE) => f.write_str("no descriptor is left"),
                _ => write!(f, "the socket of the handover: {error}"),
            },
        }
    }
}

impl std::error::Error for ChannelError {}

impl From<Errno> for ChannelError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET | Errno::CONNREFUSED | Errno::NOTCONN => Self::Closed,
            error => Self::System(error.into()),
        }
    }
}

/// Makes the two ends of a channel. The first one stays in this process, the second one becomes the standard input of
/// the new process.
///
/// # Errors
///
/// The system has no descriptor or memory.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

impl Channel {
    /// Uses the end that stays in the old process.
    ///
    /// # Errors
    ///
    /// The socket is not from [`pair`] of this process.
    pub fn of_old(socket: OwnedFd) -> Result<Self, ChannelError> {
        Self::new(socket, getpid())
    }

    /// Uses the end that the new process has as its standard input. `old` is the process that started it.
    ///
    /// # Errors
    ///
    /// The socket is not from [`pair`], or a process of another user or another process than `old` has made it.
    pub fn of_new(socket: OwnedFd, old: Pid) -> Result<Self, ChannelError> {
        Self::new(socket, old)
    }

    /// Checks that the process `creator` of this user has made the socket. For a pair of sockets the kernel reports the
    /// credentials of the process that made it, at both ends.
    fn new(socket: OwnedFd, creator: Pid) -> Result<Self, ChannelError> {
        if socket_type(&socket) != Ok(SocketType::SEQPACKET) {
            return Err(ChannelError::Peer("it is not a pair of packet sockets"));
        }
        let peer = socket_peercred(&socket)?;
        if peer.uid != geteuid() {
            return Err(ChannelError::Peer("it belongs to another user"));
        }
        if peer.pid != creator {
            return Err(ChannelError::Peer("it belongs to another process"));
        }
        ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: register(socket, Interest::READABLE | Interest::WRITABLE).map_err(ChannelError::System)? })
    }

    /// Sends a message with descriptors, and waits at most `max` while the socket is full.
    ///
    /// # Errors
    ///
    /// Nothing was sent.
    pub async fn send(
        &self,
        message: &Message,
        descriptors: &[BorrowedFd<'_>],
        max: Duration,
    ) -> Result<(), ChannelError> {
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(ChannelError::TooManyDescriptors(descriptors.len()));
        }
        let packet = message.encode().map_err(ChannelError::Wire)?;
        let sending = async {
            loop {
                let mut ready = self.socket.writable().await.map_err(ChannelError::System)?;
                match send_packet(self.socket.get_ref(), &packet, descriptors) {
                    Ok(()) => return Ok(()),
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        timeout(max, sending).await.map_err(|_| ChannelError::TimedOut(max))?
    }

    /// Receives a message, and waits at most `max` for it.
    ///
    /// # Errors
    ///
    /// No message arrived, or what arrived is not one. [`Message::Failed`] is an error, too.
    pub async fn receive(&self, max: Duration) -> Result<Received, ChannelError> {
        let received = timeout(max, self.receive_packet()).await.map_err(|_| ChannelError::TimedOut(max))??;
        match received.message {
            Message::Failed(reason) => Err(ChannelError::Failed(reason)),
            _ => Ok(received),
        }
    }

    async fn receive_packet(&self) -> Result<Received, ChannelError> {
        // The kernel reports once that the peer ended with unread messages, before the messages that it has sent.
        let mut was_reset = false;
        loop {
            let mut ready = self.socket.readable().await.map_err(ChannelError::System)?;
            match receive_packet(self.socket.get_ref()) {
                Ok(received) => return received,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) if !was_reset => was_reset = true,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Received {
    /// Returns the error for a message that was not expected.
    pub fn unexpected(&self) -> ChannelError {
        ChannelError::Unexpected(self.message.name())
    }
}

fn send_packet(socket: &OwnedFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    // A packet is sent as a whole or not at all.
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

fn receive_packet(socket: &OwnedFd) -> Result<Result<Received, ChannelError>, Errno> {
    let mut packet = vec![0; MESSAGE_MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let result = recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if result.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Err(ChannelError::Truncated));
    }
    packet.truncate(result.bytes);
    if packet.is_empty() {
        return Ok(Err(ChannelError::Closed));
    }
    let descriptors_lost = result.flags.contains(ReturnFlags::CTRUNC);
    let message = Message::decode(&packet).map_err(ChannelError::Wire);
    Ok(message.map(|message| Received { message, descriptors, descriptors_lost }))
}

#[cfg(test)]
mod tests;
