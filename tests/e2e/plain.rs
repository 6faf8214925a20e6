//! Plain listeners and listeners on Unix sockets, for deployments behind a balancer that terminates TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};

use crate::proxies::UNEXPECTED_HEADER;
use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki::client_config;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream};
use crate::support::wire::{BINARY, End, Frame, Head, Peer};

/// A directory below that of the system, since the path of a socket is limited to 107 bytes.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tollgate-plain-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("http.sock")
    }

    /// Returns the lines of a plain listener on the socket.
    fn listener(&self) -> String {
        format!("address = \"unix:{}\"\ntls = false", self.socket().display())
    }

    fn start(&self, setup: Setup, upstream: &Upstream) -> Gate {
        let gate = Gate::launch(setup.listener(&self.listener()).to(upstream.address()));
        let listening = gate.log.next("listening");
        assert_eq!(listening["address"], format!("unix:{}", self.socket().display()));
        gate
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn over_tcp(gate: &Gate) -> Peer<TcpStream> {
    let stream = TcpStream::connect(gate.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Peer::new(stream, true)
}

fn over_unix(path: &Path) -> Peer<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    Peer::new(stream, true)
}

/// Opens a session. Returns the upstream's end, and the request that it received.
fn open<S: Read + Write>(client: &mut Peer<S>, upstream: &Upstream, request: &Request) -> (Server, Head) {
    client.send(&request.bytes());
    let mut server = upstream.accept();
    let asked = server.open(&[]);
    assert_eq!(client.head().status(), 101);
    (server, asked)
}

/// Checks that messages of all sizes pass both ways, and closes the session.
fn exchange<S: Read + Write>(client: &mut Peer<S>, server: &mut Server) {
    for len in [0, 1, 200, 70_000, 900_000] {
        let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        client.send_frame(Frame::new(BINARY, &payload));
        assert_eq!(server.frame().payload, payload);
        server.send_frame(Frame::new(BINARY, &payload));
        assert_eq!(client.frame().payload, payload);
    }
    client.send_frame(Frame::close(1000, ""));
    server.expect_close(1000);
    server.send_frame(Frame::close(1000, ""));
    client.expect_close(1000);
    client.expect_clean_end();
    server.expect_clean_end();
}

#[test]
fn a_plain_listener_serves_sessions_and_rejections_without_tls() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("tls = false").start(&upstream);
    let mut client = over_tcp(&gate);
    let (mut server, asked) = open(&mut client, &upstream, &Request::to("/open/"));
    assert_eq!((asked.get("X-Forwarded-For"), asked.get("X-Forwarded-Proto")), (Some("127.0.0.1"), Some("http")));
    assert_eq!(asked.get("Forwarded"), Some("for=127.0.0.1;host=\"chat.example.com\";proto=http"));
    exchange(&mut client, &mut server);
    let ended = gate.log.next("session ended");
    assert_eq!((&ended["client"], &ended["code"]), (&"127.0.0.1".into(), &1000.into()));

    let mut refused = over_tcp(&gate);
    refused.send(&Request::to("/elsewhere").bytes());
    assert_eq!(refused.head().status(), 404);
    assert_eq!(refused.rest().1, End::Clean);
    assert!(!gate.log.text().contains("TLS handshake"), "there is none");
}

#[test]
fn a_client_of_a_plain_listener_that_disconnects_ends_its_session() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("tls = false").start(&upstream);
    let mut client = over_tcp(&gate);
    let (mut server, _) = open(&mut client, &upstream, &Request::to("/open/"));
    drop(client);
    server.expect_close(1001);
    server.send_frame(Frame::close(1001, ""));
    server.expect_clean_end();
    assert_eq!(gate.log.next("session ended")["by"], "client");
}

#[test]
fn a_plain_session_has_no_tls_version_and_counts_no_handshake() {
    let (upstream, folder) = (Upstream::bind(), Folder::new());
    let admin = folder.0.join("admin.sock");
    let section = format!("[admin]\naddress = \"unix:{}\"", admin.display());
    let gate = Setup::new().listener("tls = false\ntrusted_proxies = [\"127.0.0.1\"]").more(&section).start(&upstream);
    let mut client = over_tcp(&gate);
    let (mut server, _) = open(&mut client, &upstream, &Request::to("/open/").with("X-Forwarded-For: 192.0.2.7"));
    client.send_text("the session is counted");
    server.expect_text("the session is counted");
    let ask = |target: &str| {
        let mut answer = String::new();
        let mut stream = UnixStream::connect(&admin).unwrap();
        stream.write_all(format!("GET {target} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    let listed: serde_json::Value = serde_json::from_str(&ask("/v1/sessions")).unwrap();
    let session = &listed["sessions"][0];
    assert_eq!((&session["address"], &session["tls_version"]), (&"192.0.2.7".into(), &serde_json::Value::Null));
    let metrics = ask("/metrics");
    let handshakes: Vec<_> = metrics.lines().filter(|line| line.starts_with("tollgate_tls_handshakes_total")).collect();
    assert!(handshakes.iter().all(|line| line.ends_with(" 0")), "{handshakes:?}");
    assert!(metrics.contains("tollgate_connections{state=\"session\"} 1"), "{metrics}");
}

/// A client that does not read is noticed by the bytes that the kernel takes.
#[test]
fn a_client_of_a_plain_listener_that_does_not_read_is_cut_off() {
    let upstream = Upstream::bind();
    let folder = Folder::new();
    let limits = "write_timeout = \"200ms\"\nclose_timeout = \"100ms\"\nping_interval = \"off\"";
    let tcp = Setup::new().listener("tls = false").limits(limits).start(&upstream);
    let unix = folder.start(Setup::new().limits(limits), &upstream);
    let mut client = over_tcp(&tcp);
    let (server, _) = open(&mut client, &upstream, &Request::to("/open/"));
    flood_until_cut_off(server, &tcp);
    let mut client = over_unix(&folder.socket());
    let (server, _) = open(&mut client, &upstream, &Request::to("/open/"));
    flood_until_cut_off(server, &unix);
}

fn flood_until_cut_off(mut server: Server, gate: &Gate) {
    let sending =
        std::thread::spawn(move || while server.try_send_frame(Frame::new(BINARY, vec![0; 60_000])).is_ok() {});
    assert_eq!(gate.log.next("session ended")["cause"], "client_write_stall");
    sending.join().unwrap();
}

#[test]
fn a_plain_listener_behind_tls_gets_address_and_scheme_from_its_proxy() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("tls = false\ntrusted_proxies = [\"127.0.0.1\"]").start(&upstream);
    let request = Request::to("/open/").with("X-Forwarded-For: 192.0.2.7").with("X-Forwarded-Proto: https");
    let mut client = over_tcp(&gate);
    let (mut server, asked) = open(&mut client, &upstream, &request);
    assert_eq!(asked.get("Forwarded"), Some("for=192.0.2.7;host=\"chat.example.com\";proto=https"));
    exchange(&mut client, &mut server);
}

#[test]
fn a_unix_listener_serves_its_group_and_ends_with_the_process() {
    let (upstream, folder) = (Upstream::bind(), Folder::new());
    // The file of a process that was killed does not prevent the start.
    drop(UnixListener::bind(folder.socket()).unwrap());
    let mut gate = folder.start(Setup::new(), &upstream);
    assert_eq!(fs::symlink_metadata(folder.socket()).unwrap().mode() & 0o777, 0o660);
    let mut client = over_unix(&folder.socket());
    let (mut server, asked) = open(&mut client, &upstream, &Request::to("/open/"));
    assert_eq!((asked.get("X-Forwarded-For"), asked.get("X-Forwarded-Proto")), (Some("127.0.0.1"), Some("http")));
    exchange(&mut client, &mut server);
    assert_eq!(gate.log.next("session ended")["client"], "127.0.0.1");
    gate.drain();
    assert!(gate.wait_exit().success());
    assert!(!folder.socket().exists(), "the file is removed");
}

#[test]
fn clients_of_a_unix_listener_are_named_by_either_kind_of_header() {
    let (upstream, folder) = (Upstream::bind(), Folder::new());
    let keys = "proxy_protocol_from = [\"unix\"]\ntrusted_proxies = [\"10.0.0.0/8\"]";
    let gate = folder.start(Setup::new().listener(keys), &upstream);
    for (from, expected) in [("192.0.2.8", "192.0.2.8"), ("10.0.0.2", "192.0.2.7")] {
        let mut client = over_unix(&folder.socket());
        client.send(format!("PROXY TCP4 {from} 198.51.100.1 1 2\r\n").as_bytes());
        let request = Request::to("/open/").with("X-Forwarded-For: 192.0.2.7");
        let (mut server, asked) = open(&mut client, &upstream, &request);
        assert_eq!(asked.get("X-Forwarded-For"), Some(expected));
        exchange(&mut client, &mut server);
        assert_eq!(gate.log.next("session ended")["client"], expected);
    }
    drop(gate);
    let gate = folder.start(Setup::new().listener("trusted_proxies = [\"unix\"]"), &upstream);
    let mut client = over_unix(&folder.socket());
    let (mut server, asked) =
        open(&mut client, &upstream, &Request::to("/open/").with("X-Forwarded-For: 127.0.0.1, 192.0.2.7"));
    assert_eq!(asked.get("X-Forwarded-For"), Some("192.0.2.7"));
    exchange(&mut client, &mut server);
    drop(gate);
}

#[test]
fn a_reload_adds_keeps_and_removes_unix_listeners() {
    let (upstream, folder) = (Upstream::bind(), Folder::new());
    let gate = Setup::new().start(&upstream);
    let section = format!("\n[[listener]]\n{}\n", folder.listener());
    let line = gate.reload(|text| text + &section);
    assert_eq!(line["added"], format!("unix:{}", folder.socket().display()));
    let mut client = over_unix(&folder.socket());
    let (mut server, _) = open(&mut client, &upstream, &Request::to("/open/"));
    // An unchanged listener keeps its socket, and new settings apply to new connections.
    let inode = fs::symlink_metadata(folder.socket()).unwrap().ino();
    let line = gate.reload(|text| text.replace(&section, &format!("{section}trusted_proxies = [\"unix\"]\n")));
    assert_eq!((&line["added"], &line["removed"]), (&"".into(), &"".into()));
    assert_eq!(fs::symlink_metadata(folder.socket()).unwrap().ino(), inode);
    let mut second = over_unix(&folder.socket());
    let (_, asked) = open(&mut second, &upstream, &Request::to("/open/").with("X-Forwarded-For: 192.0.2.7"));
    assert_eq!(asked.get("X-Forwarded-For"), Some("192.0.2.7"));
    let line = gate.reload(|text| text.split(&section).next().unwrap().to_owned() + "\n# the end\n");
    assert_eq!(line["removed"], format!("unix:{}", folder.socket().display()));
    assert!(!folder.socket().exists(), "the file is removed");
    exchange(&mut client, &mut server);
}

#[test]
fn an_inherited_unix_socket_is_served() {
    let (upstream, folder) = (Upstream::bind(), Folder::new());
    let socket = UnixListener::bind(folder.socket()).unwrap();
    let setup = Setup::new().listener("address = \"systemd:public\"\ntls = false").inherit(socket, "public");
    let gate = Gate::launch(setup.to(upstream.address()));
    assert_eq!(gate.log.next("listening")["address"], format!("unix:{}", folder.socket().display()));
    let mut client = over_unix(&folder.socket());
    let (mut server, _) = open(&mut client, &upstream, &Request::to("/open/"));
    exchange(&mut client, &mut server);
    drop(gate);
    assert!(folder.socket().exists(), "the file belongs to the service manager");
}

/// The configuration cannot know the address of an inherited socket, so it is checked at the start.
#[test]
fn an_inherited_socket_of_a_plain_listener_must_be_private() {
    let (upstream, public) = (Upstream::bind(), || TcpListener::bind("0.0.0.0:0").unwrap());
    let listener = "address = \"systemd:public\"\ntls = false";
    let mut gate = Gate::launch(Setup::new().listener(listener).inherit(public(), "public").to(upstream.address()));
    assert_eq!(gate.wait_exit().code(), Some(78));
    let error = gate.log.next("tollgate failed")["error"].to_string();
    assert!(error.contains("is not private, and a listener with tls = false needs insecure = true"), "{error}");
    let setup = Setup::new().listener(&format!("{listener}\ninsecure = true")).inherit(public(), "public");
    let gate = Gate::launch(setup.to(upstream.address()));
    gate.log.next("listening");
}

/// A reload keeps the listener, whose other settings it changes.
#[test]
fn a_reload_cannot_make_an_inherited_public_listener_plain_without_insecure() {
    let (upstream, public) = (Upstream::bind(), || TcpListener::bind("0.0.0.0:0").unwrap());
    let inherited = "address = \"systemd:public\"";
    let plain = format!("{inherited}\ntls = false");
    let insecure = format!("{plain}\ninsecure = true");
    let setup = Setup::new().listener(&insecure).inherit(public(), "public");
    let gate = Gate::launch(setup.to(upstream.address()));
    gate.log.next("listening");
    gate.edit(|text| text.replace("insecure = true", ""));
    gate.signal(Signal::HUP);
    gate.log.next("reload failed: the configuration in use stays");
    assert!(gate.log.text().contains("is not private, and a listener with tls = false needs insecure = true"));
    gate.reload(|text| text.replace("tls = false", "tls = false\ninsecure = true"));

    let gate = Gate::launch(Setup::new().listener(inherited).inherit(public(), "public").to(upstream.address()));
    gate.log.next("listening");
    gate.edit(|text| {
        let certificates = text.lines().find(|line| line.starts_with("certificates")).unwrap().to_owned();
        text.replace(&certificates, "tls = false")
    });
    gate.signal(Signal::HUP);
    gate.log.next("reload failed: the configuration in use stays");
    assert!(gate.log.text().contains("is not private"));
}

/// The header is a malformed request line to a plain listener.
#[test]
fn a_proxy_header_of_another_peer_is_rejected() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("tls = false\nproxy_protocol_from = [\"127.0.0.2\"]").start(&upstream);
    for header in [&b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let mut client = over_tcp(&gate);
        client.send(&[header, &Request::to("/open/").bytes()].concat());
        assert_eq!(client.head().status(), 400);
        assert_eq!(gate.log.next("refused")["client"], "127.0.0.1");
        let line = gate.log.next(UNEXPECTED_HEADER);
        assert_eq!((&line["level"], &line["client"]), (&"WARN".into(), &"127.0.0.1".into()), "{line}");
        assert_eq!(line["listener"], gate.address().to_string(), "{line}");
    }
    let mut client = over_tcp(&gate);
    client.send(b"PROXY-LIKE\r\n\r\n");
    assert_eq!(client.head().status(), 400);
    gate.log.next("refused");
    assert_eq!(gate.log.all(UNEXPECTED_HEADER).len(), 2);
    upstream.assert_untouched();
}

#[test]
fn a_drain_does_not_wait_for_headers() {
    let upstream = Upstream::bind();
    let listener = "tls = false\nproxy_protocol_from = [\"127.0.0.1\"]\nhandshake_timeout = \"5m\"";
    let mut gate = Setup::new().listener(listener).start(&upstream);
    let silent = TcpStream::connect(gate.address()).unwrap();
    let mut served = over_tcp(&gate);
    served.send(b"PROXY UNKNOWN\r\n");
    served.send(&Request::to("/elsewhere").bytes());
    assert_eq!(served.head().status(), 404, "both connections are accepted");
    gate.drain();
    assert!(gate.wait_exit().success());
    drop(silent);
}

#[test]
fn tls_min_version_rejects_lower_versions() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("tls_min_version = \"1.3\"").start(&upstream);
    let client = Client::connect_with(&gate, Arc::new(client_config(&[&TLS13])), "chat.example.com");
    Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    let mut stream = TcpStream::connect(gate.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = Arc::new(client_config(&[&TLS12]));
    let mut tls = rustls::ClientConnection::new(config, "chat.example.com".try_into().unwrap()).unwrap();
    let error = loop {
        match tls.complete_io(&mut stream) {
            Ok(_) => assert!(tls.is_handshaking(), "TLS 1.2 was negotiated"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("ProtocolVersion"), "{error}");
}

/// A client of a Unix socket has no address, unless a trusted proxy names it.
#[test]
fn a_server_with_proxy_protocol_gets_no_address_of_a_client_of_a_unix_socket() {
    let (upstream, folder) = (Upstream::bind(), Folder::new());
    let setup = Setup::new().upstream("proxy_protocol = true").listener("trusted_proxies = [\"unix\"]");
    let _gate = folder.start(setup, &upstream);
    let header = |request: &Request| {
        let mut client = over_unix(&folder.socket());
        client.send(&request.bytes());
        let (header, mut server) = upstream.accept_proxied();
        server.open(&[]);
        assert_eq!(client.head().status(), 101);
        header
    };
    let start = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    assert_eq!(header(&Request::to("/open/")), [&start[..], &[0x20, 0x00, 0, 0]].concat(), "LOCAL");
    let v4 = [&start[..], &[0x21, 0x11, 0, 12, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(header(&Request::to("/open/").with("X-Forwarded-For: 192.0.2.7")), v4);
    let v6 = [&start[..], &[0x21, 0x21, 0, 36, 0x20, 1, 0xd, 0xb8], &[0; 11], &[7], &[0; 20]].concat();
    assert_eq!(header(&Request::to("/open/").with("X-Forwarded-For: 2001:db8::7")), v6);
}
