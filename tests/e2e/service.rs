//! The process under a service manager: watchdog, shutdown delay, and inherited sockets.

use std::fs;
use std::hint::black_box;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use tokio::sync::mpsc;
use tollgate::config;
use tollgate::server::reload::ReloadOptions;
use tollgate::server::serve::{Server, ServerEvent};

use crate::support::PATIENCE;
use crate::support::gate::{Folder, Gate};
use crate::support::pki::{self, Leaf};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Frame;

/// The socket at which a service manager receives notifications.
struct Manager {
    socket: UnixDatagram,
    folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    /// Sets the environment of a unit with this `WatchdogSec`.
    fn watch(&self, setup: Setup, interval: Duration) -> Setup {
        setup
            .environment("NOTIFY_SOCKET", self.folder.path("notify").to_str().unwrap())
            .environment("WATCHDOG_USEC", &interval.as_micros().to_string())
    }

    fn receive(&self) -> Option<String> {
        let mut bytes = [0; 1024];
        match self.socket.recv(&mut bytes) {
            Ok(n) => Some(String::from_utf8(bytes[..n].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a notification with this line.
    fn wait_for(&self, line: &str) {
        while !self.receive().unwrap_or_else(|| panic!("no {line}")).lines().any(|found| found == line) {}
    }
}

/// The watchdog is fed while sessions run and during the drain, and not while the process stands still.
#[test]
fn the_watchdog_is_fed_while_the_workers_run() {
    const INTERVAL: Duration = Duration::from_millis(400);
    let (upstream, manager) = (Upstream::bind(), Manager::new());
    let mut gate = manager.watch(Setup::new().server("workers = 3"), INTERVAL).start(&upstream);
    manager.wait_for("READY=1");
    let session = Session::open(&gate, &upstream);
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    gate.stop();
    manager.socket.set_read_timeout(Some(INTERVAL * 2)).unwrap();
    // Those that were sent before.
    while manager.receive().is_some() {}
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    gate.signal(Signal::CONT);
    manager.wait_for("WATCHDOG=1");

    gate.drain();
    manager.wait_for("STOPPING=1");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    drop(session);
    assert_eq!(gate.wait_exit().code(), Some(0));
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let (upstream, manager) = (Upstream::bind(), Manager::new());
    let setup = manager.watch(Setup::new(), Duration::from_millis(10)).environment("WATCHDOG_PID", "1");
    let mut gate = setup.start(&upstream);
    Session::open(&gate, &upstream).close();
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
    manager.socket.set_nonblocking(true).unwrap();
    while let Some(text) = manager.receive() {
        assert!(!text.contains("WATCHDOG"), "{text}");
    }
}

/// Until the delay has passed, sessions begin and continue; then the drain starts by itself.
#[test]
fn clients_are_served_during_the_shutdown_delay() {
    let (upstream, manager) = (Upstream::bind(), Manager::new());
    let setup = Setup::new().server("shutdown_delay = \"3s\"\ndrain_timeout = \"5m\"");
    let mut gate = manager.watch(setup, PATIENCE).start(&upstream);
    let mut earlier = Session::open(&gate, &upstream);
    gate.signal(Signal::TERM);
    assert_eq!(gate.log.next("stopping")["delay_ms"], 3000);
    manager.wait_for("STOPPING=1");
    Session::open(&gate, &upstream).close();
    earlier.client.send_text("still here");
    earlier.server.expect_text("still here");
    gate.log.next("draining");
    earlier.client.expect_close(1001);
    let response = Client::connect(&gate).ask(&Request::to("/open/"));
    assert_eq!((response.head.status(), gate.log.next("refused")["cause"].as_str()), (503, Some("draining")));
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// The second signal starts the drain, and the third one aborts it. The delay is that of the last reload.
#[test]
fn a_second_signal_skips_the_delay_and_a_third_aborts_the_drain() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("drain_timeout = \"5m\"").start(&upstream);
    gate.reload(|text| text.replace("drain_timeout", "shutdown_delay = \"1h\"\ndrain_timeout"));
    let mut session = Session::open(&gate, &upstream);
    gate.signal(Signal::TERM);
    assert_eq!(gate.log.next("stopping")["delay_ms"], 3_600_000);
    // A reload still works.
    assert_eq!(gate.reload(|text| text)["generation"], 3);
    gate.drain();
    session.client.expect_close(1001);
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
    session.client.rest();
}

/// Binds a server in the test's own process. Returns it with the folder of its configuration.
fn server(setup: Setup) -> (Server, Folder) {
    let (folder, leaf) = (Folder::new(), Leaf::new(&["chat.example.com"]));
    folder.write("chain.pem", &leaf.chain_pem);
    folder.write("key.pem", &leaf.key_pem);
    folder.write("token.pem", &pki::public_key_pem());
    let file = folder.write("tollgate.toml", &setup.toml("[{ chain = \"chain.pem\", key = \"key.pem\" }]"));
    let config = config::load(&file).unwrap_or_else(|report| panic!("{report}"));
    (Server::bind(config, Some(file)).unwrap(), folder)
}

/// The readiness ends with the first signal, before requests are rejected.
#[test]
fn the_readiness_ends_before_the_drain() {
    let (server, _folder) = server(Setup::new().to("127.0.0.1:1").server("shutdown_delay = \"1h\""));
    let gateway = Arc::clone(server.gateway());
    let ready = move || (gateway.process.lifecycle.is_ready(), gateway.process.lifecycle.is_admitting());
    assert_eq!(ready(), (true, true));
    let (stop, stopped) = mpsc::channel(1);
    let (event, events) = std::sync::mpsc::sync_channel(8);
    let running = thread::spawn(move || {
        let report = |happened: ServerEvent<'_>| {
            let is_stopping = matches!(happened, ServerEvent::Stopping(_));
            event.send((is_stopping, ready())).unwrap();
        };
        server.run(stopped, report).unwrap();
    });
    stop.blocking_send(()).unwrap();
    assert_eq!(events.recv().unwrap(), (true, (false, true)), "stopping");
    stop.blocking_send(()).unwrap();
    assert_eq!(events.recv().unwrap(), (false, (false, false)), "draining");
    running.join().unwrap();
}

const INHERITED: &str = "address = \"systemd:public\"";

/// Returns a setup whose listener is an inherited socket.
fn inheriting(socket: &TcpListener) -> Setup {
    Setup::new().listener(INHERITED).inherit(socket.try_clone().unwrap(), "public")
}

/// A connection that arrives after the stop is neither refused nor reset: it waits in the queue of the socket, and the
/// next process serves it.
#[test]
fn a_client_that_connects_during_a_restart_is_served_by_the_next_process() {
    let (upstream, socket) = (Upstream::bind(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut first = inheriting(&socket).server("workers = 3").start(&upstream);
    assert_eq!(first.address(), socket.local_addr().unwrap());
    let mut session = Session::open(&first, &upstream);
    first.drain();
    let waiting = TcpStream::connect(first.address()).unwrap();
    session.client.expect_close(1001);
    session.server.expect_close(1001);
    session.client.send_frame(Frame::close(1001, ""));
    session.server.send_frame(Frame::close(1001, ""));
    drop(session);
    assert_eq!(first.wait_exit().code(), Some(0));
    assert!(first.log.all("refused").is_empty());

    let second = inheriting(&socket).start(&upstream);
    let client = Client::handshake(waiting, pki::plain_client_config(), "chat.example.com");
    Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    second.log.next("session ended");
}

/// During the shutdown delay an inherited listener accepts as before.
#[test]
fn an_inherited_listener_accepts_until_the_delay_is_over() {
    let (upstream, socket) = (Upstream::bind(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut gate = inheriting(&socket).server("shutdown_delay = \"1h\"").start(&upstream);
    gate.signal(Signal::TERM);
    gate.log.next("stopping");
    Session::open(&gate, &upstream).close();
    gate.drain();
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// A reload keeps an inherited listener, closes it, and opens it again.
#[test]
fn a_reload_changes_inherited_listeners_like_others() {
    let (upstream, socket) = (Upstream::bind(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut gate = inheriting(&socket).start(&upstream);
    let address = socket.local_addr().unwrap().to_string();
    let line = gate.reload(|text| text.replace("max_sessions = 32", "max_sessions = 31"));
    assert_eq!((line["added"].as_str(), line["removed"].as_str()), (Some(""), Some("")), "{line}");
    Session::open(&gate, &upstream).close();
    let line = gate.reload(|text| text.replace("systemd:public", "127.0.0.1:0"));
    assert_eq!(line["removed"].as_str(), Some(address.as_str()), "{line}");
    let waiting = TcpStream::connect(gate.address()).unwrap();
    let line = gate.reload(|text| text.replace("127.0.0.1:0", "systemd:public"));
    assert_eq!(line["added"].as_str(), Some(address.as_str()), "{line}");
    let client = Client::handshake(waiting, pki::plain_client_config(), "chat.example.com");
    Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// A client of IPv4 at a socket for IPv6 and IPv4 has its IPv4 address.
#[test]
fn an_inherited_socket_may_serve_ipv6_and_ipv4() {
    let (upstream, socket) = (Upstream::bind(), TcpListener::bind("[::]:0").unwrap());
    let gate = inheriting(&socket).route("deny_addresses = [\"::/0\"]").start(&upstream);
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gate.address().port())).unwrap();
    let client = Client::handshake(stream, pki::plain_client_config(), "chat.example.com");
    Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    assert_eq!(gate.log.next("session ended")["client"], "127.0.0.1");
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 403);
}

#[test]
fn unused_inherited_sockets_are_a_warning() {
    let (upstream, socket) = (Upstream::bind(), TcpListener::bind("127.0.0.1:0").unwrap());
    let gate = Setup::new().inherit(socket, "spare").start(&upstream);
    assert_eq!(gate.log.all("no listener uses the socket that systemd passes under this name")[0]["name"], "spare");
    Session::open(&gate, &upstream).close();
}

/// A restart would fail in the same way, so the exit code is 78.
#[test]
fn an_inherited_socket_that_cannot_be_used_is_an_error() {
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = || TcpStream::connect(Upstream::bind().address()).unwrap();
    let second = "\n[[listener]]\naddress = \"systemd:other\"\n\
                  certificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]";
    let table: [(OwnedFd, &str, &str, &str); 5] = [
        (tcp().into(), "other", "", "systemd:public: systemd passed no socket of this name, only other"),
        (tcp().into(), "public:public", "", "systemd:public: systemd passed 2 sockets of this name"),
        (tcp().into(), "public:other", second, "systemd:other: another listener has its address 127.0.0.1:"),
        (
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            "public",
            "",
            "systemd:public: it is not a listening TCP or Unix stream socket",
        ),
        (connected().into(), "public", "", "it is not a listening TCP or Unix stream socket: it does not listen"),
    ];
    for (descriptor, names, more, expected) in table {
        let setup = Setup::new().to("127.0.0.1:1").listener(INHERITED).more(more);
        let mut gate = Gate::launch(setup.inherit(descriptor, names));
        assert_eq!(gate.wait_exit().code(), Some(78), "{expected}");
        let error = gate.log.next("tollgate failed")["error"].to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut gate = Gate::launch(Setup::new().to("127.0.0.1:1").listener(INHERITED));
    assert_eq!(gate.wait_exit().code(), Some(78));
    let error = gate.log.next("tollgate failed")["error"].to_string();
    assert!(error.contains("systemd passed no socket: is the socket unit started?"), "{error}");
}

/// New sessions get a 503 while the resident memory exceeds the limit, and open sessions continue. The server runs in
/// the test's own process, whose memory the test controls. The limit leaves enough for other tests that run meanwhile.
#[test]
fn sessions_are_rejected_while_the_memory_exceeds_memory_max() {
    const LEFT: usize = 128 << 20;
    let status = procfs::process::Process::myself().unwrap().status().unwrap();
    let resident = status.vmrss.unwrap() as usize * 1024;
    let upstream = Upstream::bind();
    let setup = Setup::new().to(upstream.address()).server(&format!("memory_max = \"{}B\"", resident + LEFT));
    let (server, folder) = server(setup);
    let (control, gateway) = (server.control().clone(), Arc::clone(server.gateway()));
    let address = server.addresses()[0].tcp().unwrap();
    let (stop, stopped) = mpsc::channel(1);
    let running = thread::spawn(move || server.run(stopped, |_| ()).unwrap());
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        Client::handshake(stream, pki::plain_client_config(), "chat.example.com")
    };
    let open = || Session::open_over(connect(), &upstream, &Request::to("/open/"), &[]);
    let wait_until = |is_short: bool| {
        let until = Instant::now() + PATIENCE;
        while gateway.counters.is_short_of_memory() != is_short {
            assert!(Instant::now() < until, "the memory is not compared with its limit");
            thread::yield_now();
        }
    };
    let mut earlier = open();
    // Without the black box an optimised build makes no allocation.
    let ballast = black_box(vec![1_u8; LEFT * 3 / 2]);
    wait_until(true);
    let response = connect().ask(&Request::to("/open/"));
    assert_eq!(response.head.status(), 503, "{:?} with {} bytes more", response.head, ballast.len());
    assert!(response.head.get("Retry-After").is_some(), "{:?}", response.head);
    upstream.assert_untouched();
    earlier.client.send_text("still here");
    earlier.server.expect_text("still here");
    drop(ballast);
    wait_until(false);
    open().close();

    // A reload applies another limit.
    // Without the black box an optimised build makes no allocation.
    let ballast = black_box(vec![1_u8; LEFT * 3 / 2]);
    wait_until(true);
    let file = folder.path("tollgate.toml");
    let text = fs::read_to_string(&file).unwrap().replace("memory_max", "# memory_max");
    fs::write(&file, text).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(control.reload(ReloadOptions::default())).unwrap();
    wait_until(false);
    open().close();
    drop(ballast);
    earlier.close();
    stop.blocking_send(()).unwrap();
    running.join().unwrap();
}
