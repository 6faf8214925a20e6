//! An upstream that the test drives: it accepts, reads and answers step by step.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};

use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::handshake::derive_accept_key;

use super::PATIENCE;
use super::wire::{Head, Peer};

/// The upstream's end of a connection.
pub type Server<S = TcpStream> = Peer<S>;

/// A listening upstream. The kernel completes connections, so the proxy never waits for the test to accept.
pub struct Upstream(TcpListener);

impl Upstream {
    pub fn bind() -> Self {
        Self::bind_to("127.0.0.1:0".parse().unwrap())
    }

    pub fn bind_to(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        // On Linux this timeout applies to `accept`, too.
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
        Self(listener)
    }

    /// Sets the size of the receive buffer of the connections that are accepted from now on.
    pub fn set_receive_buffer(&self, bytes: usize) {
        SockRef::from(&self.0).set_recv_buffer_size(bytes).unwrap();
    }

    /// Returns the upstream of a bound socket, which listens whenever the test says so.
    pub fn of(socket: &Socket) -> Self {
        Self(socket.try_clone().unwrap().into())
    }

    /// Returns another handle of the same listener.
    pub fn share(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    /// Listens on a socket that is bound: see [`refusing`].
    pub fn listen(socket: Socket) -> Self {
        socket.listen(64).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket.into())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Accepts the next connection.
    pub fn accept(&self) -> Server {
        let (stream, _) = self.0.accept().expect("the proxy connects to its upstream");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Server::new(stream, false)
    }

    /// Accepts every connection of these upstreams from now on. Each arrives with the index of its upstream.
    pub fn accept_all(upstreams: &[Self]) -> Receiver<(Server, usize)> {
        let (sender, accepted) = sync_channel(64);
        for (index, upstream) in upstreams.iter().enumerate() {
            let (sender, own) = (sender.clone(), upstream.share());
            std::thread::spawn(move || while sender.send((own.accept(), index)).is_ok() {});
        }
        accepted
    }

    /// Accepts the next connection, which begins with a PROXY header of version 2, and returns the header.
    pub fn accept_proxied(&self) -> (Vec<u8>, Server) {
        let mut server = self.accept();
        let mut header = vec![0; 16];
        server.stream.read_exact(&mut header).expect("the fixed part of the header");
        let len = usize::from(u16::from_be_bytes([header[14], header[15]]));
        assert!(len <= 216, "{header:?}");
        header.resize(16 + len, 0);
        server.stream.read_exact(&mut header[16..]).expect("the addresses");
        (header, server)
    }

    /// Closes every connection at once from now on.
    pub fn hang_up_on_all(&self) {
        let listener = self.0.try_clone().unwrap();
        std::thread::spawn(move || while listener.accept().is_ok() {});
    }

    /// Checks that there is no connection beyond those that were accepted.
    pub fn assert_untouched(&self) {
        self.0.set_nonblocking(true).unwrap();
        let accepted = self.0.accept();
        self.0.set_nonblocking(false).unwrap();
        match accepted {
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            Ok((mut stream, _)) => {
                let mut sent = [0; 1024];
                let n = stream.read(&mut sent).unwrap_or(0);
                panic!("the upstream was reached: {:?}", String::from_utf8_lossy(&sent[..n]));
            }
        }
    }
}

/// Returns an address that refuses connections, and the bound socket that reserves it.
pub fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Returns the 101 for a request, with these lines added.
pub fn switching(asked: &Head, lines: &[&str]) -> Vec<u8> {
    let accept = derive_accept_key(asked.get("Sec-WebSocket-Key").expect("a key").as_bytes());
    let lines: String = lines.iter().flat_map(|line| [*line, "\r\n"]).collect();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
    )
    .into_bytes()
}

impl<S: Read + Write> Server<S> {
    /// Reads the request, opens the session with these lines in the 101, and returns the request.
    pub fn open(&mut self, lines: &[&str]) -> Head {
        let asked = self.head();
        self.send(&switching(&asked, lines));
        asked
    }
}

/// Returns the upstream's end of a connection over a Unix socket.
pub fn over_unix(stream: UnixStream) -> Server<UnixStream> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Server::new(stream, false)
}
