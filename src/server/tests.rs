//! Servers on threads of the test's process, and clients of their sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use tokio::sync::mpsc;

use super::control::Control;
use super::inherited::Inherited;
use super::passed::{OutgoingDescriptors, PassedSockets, PassedState};
use super::serve::Server;
use crate::config::tests::InMemory;
use crate::config::{self, Config, ListenAddress};

/// The longest wait for bytes that have to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed at the end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Parses a configuration with these plain listeners and these further sections.
pub(crate) fn config(listeners: &[&str], sections: &str) -> Config {
    let listener = |address: &&str| format!("{{ address = \"{address}\", tls = false }}");
    let listeners: Vec<_> = listeners.iter().map(listener).collect();
    let text = format!(
        "listener = [{}]\nroute = [{{ name = \"a\", path = \"/\", upstream = \"a\", auth = \"none\" }}]\n\
         upstream = {{ a = {{ servers = [\"127.0.0.1:9\"] }} }}\n{sections}",
        listeners.join(", ")
    );
    config::parse(&text, Path::new("tollgate.toml"), Path::new(""), &InMemory::new())
        .unwrap_or_else(|report| panic!("{report}"))
}

/// Binds a server, which takes over these descriptors.
pub(crate) fn bind(config: Config, passed: Option<PassedState>) -> Server {
    Server::bind_with(config, None, Inherited::default(), passed).unwrap()
}

/// Makes the descriptors of a process those that another one takes over.
pub(crate) fn pass(OutgoingDescriptors { sockets, journal_lock, .. }: OutgoingDescriptors) -> PassedState {
    PassedState { sockets: PassedSockets::new(sockets).unwrap(), journal_lock, ..PassedState::default() }
}

/// A server that runs on a thread, and is stopped at the end.
pub(crate) struct Running {
    pub(crate) control: Control,
    pub(crate) addresses: Vec<ListenAddress>,
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(server: Server) -> Self {
        let (control, addresses) = (server.control().clone(), server.addresses());
        let (stop, stopped) = mpsc::channel(2);
        let thread = spawn(move || server.run(stopped, |_| {}).unwrap());
        Self { control, addresses, stop, thread: Some(thread) }
    }

    pub(crate) fn stop(&self) {
        self.stop.try_send(()).unwrap();
    }

    /// Waits until the server has ended by itself.
    pub(crate) fn end(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The second signal ends the shutdown delay, or aborts the drain.
        let _ = self.stop.try_send(());
        let _ = self.stop.try_send(());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

/// A connected client of a socket.
pub(crate) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub(crate) fn connect(address: &ListenAddress) -> Box<dyn Stream> {
    match address {
        ListenAddress::Unix(path) => {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(stream)
        }
        ListenAddress::Tcp(address) => {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(stream)
        }
        ListenAddress::Inherited(_) => panic!("not the address of a socket"),
    }
}

/// Connects and sends a request.
pub(crate) fn ask(address: &ListenAddress, request: &str) -> Box<dyn Stream> {
    let mut stream = connect(address);
    send(&mut stream, request, "close");
    stream
}

pub(crate) fn send(stream: &mut dyn Stream, request: &str, connection: &str) {
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n").unwrap();
}

/// Reads a response until the end of the connection.
pub(crate) fn answer(mut stream: Box<dyn Stream>) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Whether a new connection to a listener is served: the request is rejected, since it is not an opening handshake.
pub(crate) fn is_served(stream: Box<dyn Stream>) -> bool {
    answer(stream).starts_with("HTTP/1.1 4")
}
