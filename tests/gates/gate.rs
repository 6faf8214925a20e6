//! The whole proxy in this process, between a client and an upstream that allocate nothing while messages pass.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, KeyLog, RootCertStore};
use tokio::sync::mpsc;
use tollgate::config::{self, Content, Files};
use tollgate::record::{self, ContentType, Opened, Opener, Sealer, Suite, TrafficSecret};
use tollgate::server::serve::Server;
use tollgate::ws::handshake::accept;

use super::harness::wire::{BINARY, FIN, frame};

/// The number of times that each exchange is made.
pub const ROUNDS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Messages that are sent together, and their echo.
pub struct Exchange {
    pub name: &'static str,
    pub messages: usize,
    question: Vec<u8>,
    answer: Vec<u8>,
}

/// Returns the exchanges, in the order in which they are made.
pub fn exchanges() -> [Exchange; 4] {
    [
        Exchange::new("an echo of 64 B", 1, 64),
        Exchange::new("32 echoes of 64 B at once", 32, 64),
        Exchange::new("an echo of 1 KiB", 1, 1 << 10),
        Exchange::new("an echo of 16 KiB", 1, 16 << 10),
    ]
}

impl Exchange {
    fn new(name: &'static str, messages: usize, payload_len: usize) -> Self {
        let payload = vec![b'x'; payload_len];
        let question = frame(FIN | BINARY, Some(*b"mask"), &payload).repeat(messages);
        Self { name, messages, question, answer: frame(FIN | BINARY, None, &payload).repeat(messages) }
    }
}

/// A client with a session through the proxy to an echoing upstream.
pub struct Echo {
    client: Client,
    upstream: JoinHandle<()>,
    stop: mpsc::Sender<()>,
    server: JoinHandle<()>,
}

impl Echo {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = Certificate { chain: made.cert.pem(), key: made.signing_key.serialize_pem() };
        let text = CONFIG.replace("@UPSTREAM@", &listener.local_addr().unwrap().to_string());
        let config = config::parse(&text, Path::new("tollgate.toml"), Path::new("/"), &files);
        let server = Server::bind(config.unwrap_or_else(|report| panic!("{report}")), None).unwrap();
        let address = server.addresses()[0].tcp().unwrap();
        let (stop, stopped) = mpsc::channel(1);
        let server = thread::spawn(move || server.run(stopped, |_| ()).unwrap());
        let upstream = thread::spawn(move || answer(&listener));
        Self { client: Client::connect(address, made.cert.der().clone()), upstream, stop, server }
    }

    /// Sends the messages and receives their echo. Must be called [`ROUNDS`] times for each exchange, in their order.
    pub fn exchange(&mut self, exchange: &Exchange) {
        self.client.send(&exchange.question);
        self.client.receive(&exchange.answer);
    }

    pub fn end(self) {
        drop(self.client);
        self.upstream.join().unwrap();
        drop(self.stop);
        self.server.join().unwrap();
    }
}

/// A realistic configuration, with every feature on that has a cost per message.
const CONFIG: &str = r#"
[server]
workers = 1
max_sessions = 8
max_handshakes = 8
drain_timeout = "1s"

[[listener]]
address = "127.0.0.1:0"
certificates = [{ chain = "chain.pem", key = "key.pem" }]

[upstream.main]
servers = ["@UPSTREAM@"]
health = { check = "off" }

[[route]]
name = "main"
path = "/"
upstream = "main"
auth = "none"

[route.limits]
message_rate = "1000000/s"
message_burst = 1000000
ping_interval = "30s"
check_utf8 = true
close_timeout = "1s"
"#;

struct Certificate {
    chain: String,
    key: String,
}

impl Files for Certificate {
    fn read(&self, path: &Path) -> io::Result<Content> {
        let text = if path.ends_with("key.pem") { &self.key } else { &self.chain };
        Ok(Content { bytes: text.clone().into_bytes(), mode: 0o600 })
    }

    fn credentials(&self) -> Option<PathBuf> {
        None
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Runs the upstream. It knows the messages in advance and answers with their echo.
fn answer(listener: &TcpListener) {
    let mut socket = listener.accept().unwrap().0;
    socket.set_nodelay(true).unwrap();
    let head = read_head(&mut socket);
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    write!(socket, "{switching}Sec-WebSocket-Accept: {}\r\n\r\n", accept(key)).unwrap();
    let mut asked = vec![0; exchanges().iter().map(|exchange| exchange.question.len()).max().unwrap()];
    for exchange in exchanges() {
        let asked = &mut asked[..exchange.question.len()];
        for _ in 0..ROUNDS {
            socket.read_exact(asked).unwrap();
            assert!(*asked == *exchange.question);
            socket.write_all(&exchange.answer).unwrap();
        }
    }
    // Waits until the proxy has seen the client disconnect.
    let _ = socket.read_to_end(&mut Vec::new());
}

/// Reads a head up to its empty line. Nothing may follow it yet.
fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut part = [0; 4096];
        let len = stream.read(&mut part).unwrap();
        assert!(len > 0, "{}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&part[..len]);
    }
    String::from_utf8(head).unwrap()
}

/// The client. rustls allocates for each record, so the client takes over the record layer after the handshake, as the
/// proxy does.
struct Client {
    socket: TcpStream,
    opener: Opener,
    sealer: Sealer,
    records: Vec<u8>,
    records_len: usize,
}

impl Client {
    fn connect(address: SocketAddr, certificate: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        let provider = Arc::new(CryptoProvider { cipher_suites, ..default_provider() });
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.enable_secret_extraction = true;
        let secrets = Arc::new(Secrets::default());
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;

        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let asked = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
        write!(stream, "{asked}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n").unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");

        let extracted = tls.dangerous_extract_secrets().unwrap();
        let secret = |label| TrafficSecret::new(Suite::Aes128Gcm, &secrets.get(label)).unwrap();
        let opener = Opener::new(secret("SERVER_TRAFFIC_SECRET_0"), extracted.rx.0);
        let sealer = Sealer::new(secret("CLIENT_TRAFFIC_SECRET_0"), extracted.tx.0);
        Self { socket, opener, sealer, records: vec![0; 64 << 10], records_len: 0 }
    }

    fn send(&mut self, plaintext: &[u8]) {
        let sealed = self.sealer.seal(ContentType::ApplicationData, plaintext, &mut self.records).unwrap();
        assert_eq!(sealed.taken, plaintext.len());
        self.socket.write_all(&self.records[..sealed.written]).unwrap();
    }

    fn receive(&mut self, mut expected: &[u8]) {
        while !expected.is_empty() {
            self.records_len += self.socket.read(&mut self.records[self.records_len..]).unwrap();
            let mut at = 0;
            while let Some(Opened { len, content }) = self.opener.open(&mut self.records[at..self.records_len]).unwrap()
            {
                let record::Content::Data(range) = content else { panic!("{content:?} instead of data") };
                let (now, later) = expected.split_at(range.len());
                assert!(self.records[at..][range] == *now);
                expected = later;
                at += len;
            }
            self.records.copy_within(at..self.records_len, 0);
            self.records_len -= at;
        }
    }
}

/// The secrets that rustls logs, with their labels.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl Secrets {
    fn get(&self, wanted: &str) -> Vec<u8> {
        let all = self.0.lock().unwrap();
        all.iter().find(|(label, _)| label == wanted).expect("the handshake is over").1.clone()
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push((label.to_owned(), secret.to_vec()));
    }
}
