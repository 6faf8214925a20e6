//! The client's end of a connection, and sessions of which the test drives both ends.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use super::gate::Gate;
use super::pki;
use super::request::{ACCEPT, Request};
use super::upstream::{Server, Upstream};
use super::wire::{CLOSE, Frame, Head, Peer};

/// The client's end of a connection.
pub type Client = Peer<StreamOwned<ClientConnection, TcpStream>>;

impl Client {
    /// Connects, does the TLS handshake, and checks the certificate.
    pub fn connect(gate: &Gate) -> Self {
        Self::connect_with(gate, pki::plain_client_config(), "chat.example.com")
    }

    /// Connects from another address of the loopback network.
    pub fn connect_from(gate: &Gate, address: [u8; 4]) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
        socket.connect(&gate.address().into()).expect("the proxy accepts");
        Self::handshake(socket.into(), pki::plain_client_config(), "chat.example.com")
    }

    pub fn connect_with(gate: &Gate, config: Arc<ClientConfig>, name: &'static str) -> Self {
        Self::handshake(TcpStream::connect(gate.address()).expect("the proxy accepts"), config, name)
    }

    /// Connects, sends a PROXY header, and does the TLS handshake.
    pub fn connect_via(gate: &Gate, header: &[u8]) -> Self {
        let mut stream = TcpStream::connect(gate.address()).expect("the proxy accepts");
        stream.write_all(header).unwrap();
        Self::handshake(stream, pki::plain_client_config(), "chat.example.com")
    }

    /// Does the TLS handshake on a connected stream.
    pub fn handshake(mut stream: TcpStream, config: Arc<ClientConfig>, name: &'static str) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut tls = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).expect("the TLS handshake");
        }
        Self::new(StreamOwned::new(tls, stream), true)
    }

    /// Sets both the read and the write timeout, since rustls tries to read when it cannot write.
    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.sock.set_read_timeout(Some(timeout)).unwrap();
        self.stream.sock.set_write_timeout(Some(timeout)).unwrap();
    }

    /// Sends a request and reads the response, with its body up to the end of the stream.
    pub fn ask(&mut self, request: &Request) -> ErrorResponse {
        self.send(&request.bytes());
        self.response()
    }

    /// Reads a response other than a 101, with its body up to the end of the stream.
    pub fn response(&mut self) -> ErrorResponse {
        let head = self.head();
        let (body, _) = self.rest();
        ErrorResponse { body: String::from_utf8(body).expect("a body is text"), head }
    }
}

/// A response other than a 101.
#[derive(Debug)]
pub struct ErrorResponse {
    pub head: Head,
    pub body: String,
}

/// Both ends of a session, and the heads that they received.
pub struct Session {
    pub client: Client,
    pub server: Server,
    /// The request at the upstream.
    pub asked: Head,
    /// The response at the client.
    pub answer: Head,
}

impl Session {
    /// Opens a session at a path with a bearer token, and sends one message each way.
    pub fn open_at(gate: &Gate, upstream: &Upstream, path: &str, token: &str) -> Self {
        let mut session = Self::open_with(gate, upstream, &Request::to(path).bearer(token), &[]);
        session.echo("hello");
        session
    }

    /// Opens a session on the route without tokens.
    pub fn open(gate: &Gate, upstream: &Upstream) -> Self {
        Self::open_with(gate, upstream, &Request::to("/open/"), &[])
    }

    /// Opens a session with this request. The upstream adds `lines` to its 101.
    pub fn open_with(gate: &Gate, upstream: &Upstream, request: &Request, lines: &[&str]) -> Self {
        Self::open_over(Client::connect(gate), upstream, request, lines)
    }

    pub fn open_over(mut client: Client, upstream: &Upstream, request: &Request, lines: &[&str]) -> Self {
        client.send(&request.bytes());
        let mut server = upstream.accept();
        let asked = server.open(lines);
        let answer = client.head();
        assert_eq!(answer.status(), 101, "{answer:?}");
        assert_eq!(answer.get("Sec-WebSocket-Accept"), Some(ACCEPT));
        Self { client, server, asked, answer }
    }

    /// Passes this text from the client to the upstream and back.
    pub fn echo(&mut self, text: &str) {
        self.client.send_text(text);
        self.server.expect_text(text);
        self.server.send_text(text);
        self.client.expect_text(text);
    }

    /// Checks that both ends get this Close from the proxy, and answers it: the upstream first, since a client that
    /// broke a limit still gets the upstream's answers to earlier messages. Returns the frames that the upstream
    /// received before.
    pub fn expect_closed(mut self, code: u16, reason: &str) -> Vec<Frame> {
        let mut before = Vec::new();
        let close = loop {
            let frame = self.server.frame();
            if frame.opcode == CLOSE {
                break frame;
            }
            before.push(frame);
        };
        assert_eq!(close.close_payload(), (Some(code), reason.to_owned()));
        self.server.send_text("an answer");
        self.server.send_frame(Frame::close(code, ""));
        self.client.expect_text("an answer");
        assert_eq!(self.client.expect_close(code), reason);
        self.client.send_frame(Frame::close(code, ""));
        self.client.expect_clean_end();
        self.server.expect_clean_end();
        before
    }

    /// Closes the session with a complete closing handshake.
    pub fn close(mut self) {
        self.client.send_frame(Frame::close(1000, ""));
        self.server.expect_close(1000);
        self.server.send_frame(Frame::close(1000, ""));
        self.client.expect_close(1000);
        self.client.expect_clean_end();
        self.server.expect_clean_end();
    }
}
