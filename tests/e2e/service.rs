//! The process under a service manager: watchdog, shutdown delay, and inherited sockets.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::gate::Folder;
use crate::support::session::Session;
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
