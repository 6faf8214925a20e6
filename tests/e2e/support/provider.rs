//! An identity provider without TLS: it publishes keys, or answers in any other way, and counts requests.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use serde_json::json;

use super::PATIENCE;
use super::pki::NamedKey;
use super::wire::Peer;

/// Returns the bytes of the answer to a request for this path; `None`: the connection stays open without an answer.
type Answer = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send>;

struct State {
    answer: Answer,
    /// The paths of all requests.
    paths: Vec<String>,
    /// The connections that got no answer.
    silent: Vec<Peer<TcpStream>>,
}

pub struct Provider {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Provider {
    /// Starts a provider that publishes these keys.
    pub fn start(keys: &[&NamedKey]) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap(), keys)
    }

    /// Serves on this listener.
    pub fn listen(listener: TcpListener, keys: &[&NamedKey]) -> Self {
        let address = listener.local_addr().unwrap();
        let state = State { answer: publishing(keys), paths: Vec::new(), silent: Vec::new() };
        let provider = Self { address, state: Arc::new((Mutex::new(state), Condvar::new())) };
        let state = Arc::clone(&provider.state);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let state = Arc::clone(&state);
                thread::spawn(move || serve(stream, &state));
            }
        });
        provider
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Publishes these keys from now on.
    pub fn publish(&self, keys: &[&NamedKey]) {
        self.state.0.lock().unwrap().answer = publishing(keys);
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) {
        self.state.0.lock().unwrap().answer = Box::new(answer);
    }

    /// Returns the paths of all requests so far.
    pub fn paths(&self) -> Vec<String> {
        self.state.0.lock().unwrap().paths.clone()
    }

    /// Waits until there have been this many requests.
    pub fn wait_for(&self, count: usize) {
        let state = self.state.0.lock().unwrap();
        let (state, _) = self.state.1.wait_timeout_while(state, PATIENCE, |state| state.paths.len() < count).unwrap();
        assert!(state.paths.len() >= count, "{:?}", state.paths);
    }
}

fn publishing(keys: &[&NamedKey]) -> Answer {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    let body = json!({ "keys": keys }).to_string();
    Box::new(move |_| Some(answer("200 OK", &body)))
}

/// Returns a response; `head` is its status line without the version, with any header lines after it.
pub fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

fn serve(stream: TcpStream, state: &(Mutex<State>, Condvar)) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut peer = Peer::new(stream, false);
    let head = peer.head();
    let path = head.first_line.split(' ').nth(1).unwrap().to_owned();
    let mut locked = state.0.lock().unwrap();
    let answer = (locked.answer)(&path);
    locked.paths.push(path);
    match answer {
        // The proxy may close the connection before it has read everything.
        Some(bytes) => drop(peer.stream.write_all(&bytes)),
        None => locked.silent.push(peer),
    }
    drop(locked);
    state.1.notify_all();
}
