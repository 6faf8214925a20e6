//! The process under a service manager: watchdog, shutdown delay, and inherited sockets.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use tokio::sync::mpsc;
use tollgate::config;
use tollgate::server::serve::{Server, ServerEvent};

use crate::support::PATIENCE;
use crate::support::gate::Folder;
use crate::support::pki::{self, Leaf};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

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

/// The readiness ends with the first signal, before requests are rejected.
#[test]
fn the_readiness_ends_before_the_drain() {
    let (upstream, folder, leaf) = (Upstream::bind(), Folder::new(), Leaf::new(&["chat.example.com"]));
    folder.write("chain.pem", &leaf.chain_pem);
    folder.write("key.pem", &leaf.key_pem);
    folder.write("token.pem", &pki::public_key_pem());
    let setup = Setup::new().to(upstream.address()).server("shutdown_delay = \"1h\"");
    let file = folder.write("tollgate.toml", &setup.toml("[{ chain = \"chain.pem\", key = \"key.pem\" }]"));
    let server = Server::bind(config::load(&file).unwrap_or_else(|report| panic!("{report}")), None).unwrap();
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
