//! The metrics while real clients connect: the server runs in the test's own process.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::sync::mpsc;
use tollgate::config;
use tollgate::front::gateway::Gateway;
use tollgate::server::serve::Server;
use tollgate::telemetry::metrics::gauges::{Gauges, RouteGauges, ServerGauges};

use super::support::PATIENCE;
use super::support::gate::Folder;
use super::support::pki::{self, Leaf};
use super::support::request::Request;
use super::support::session::{Client, Session};
use super::support::upstream::{Upstream, refusing};
use super::support::wire::Frame;

/// A server in this process, whose metrics the test reads.
struct Metered {
    gateway: Arc<Gateway>,
    address: SocketAddr,
    /// Its cache of tickets is not shared with other tests.
    client: Arc<ClientConfig>,
    stop: mpsc::Sender<()>,
    running: JoinHandle<()>,
}

impl Metered {
    /// Starts a server with a route `chat` to this upstream, which drops messages beyond two, and a route `dead` to a
    /// server that refuses connections.
    fn start(upstream: &Upstream, dead: SocketAddr) -> Self {
        let (folder, leaf) = (Folder::new(), Leaf::new(&["chat.example.com"]));
        folder.write("chain.pem", &leaf.chain_pem);
        folder.write("key.pem", &leaf.key_pem);
        let text = CONFIG.replace("@CHAT@", &upstream.address().to_string()).replace("@DEAD@", &dead.to_string());
        let path = folder.write("tollgate.toml", &text);
        let config = config::load(Path::new(&path)).unwrap_or_else(|report| panic!("{report}"));
        let server = Server::bind(config, None).unwrap();
        let (gateway, address) = (Arc::clone(server.gateway()), server.addresses()[0].tcp().unwrap());
        let (stop, stopped) = mpsc::channel(1);
        let running = thread::spawn(move || server.run(stopped, |_| ()).unwrap());
        let client = Arc::new(pki::client_config(rustls::ALL_VERSIONS));
        Self { gateway, address, client, stop, running }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        Client::handshake(stream, Arc::clone(&self.client), "chat.example.com")
    }

    fn text(&self) -> String {
        let snapshot = self.gateway.snapshot();
        let gauges = Gauges {
            config_generation: snapshot.generation(),
            routes: snapshot.policy().routes().iter().map(|route| RouteGauges::of(route)).collect(),
            servers: snapshot.pools().flat_map(|pool| ServerGauges::of(pool)).collect(),
            ..Gauges::default()
        };
        self.gateway.process.metrics.encode(&gauges)
    }

    /// Waits until the text has all these lines: a worker counts bytes right after it has forwarded them.
    fn wait_for(&self, lines: &[&str]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            let missing: Vec<_> = lines.iter().filter(|line| !text.lines().any(|found| found == **line)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "{missing:#?} are missing in:\n{text}");
            thread::sleep(SCRAPE_INTERVAL);
        }
    }

    fn stop(self) {
        drop(self.stop);
        self.running.join().unwrap();
    }
}

/// The time between two scrapes of a waiting test. Without it, the test would take the CPU from those beside it.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(5);

const CONFIG: &str = r#"
[server]
workers = 2
max_sessions = 20
max_handshakes = 20
drain_timeout = "1s"
[[listener]]
address = "127.0.0.1:0"
certificates = [{ chain = "chain.pem", key = "key.pem" }]
[upstream.main]
servers = ["@CHAT@"]
health = { check = "off" }
[upstream.dead]
servers = ["@DEAD@"]
health = { check = "off" }
[[route]]
name = "chat"
path = "/chat"
upstream = "main"
auth = "none"
[route.limits]
message_rate = "1/h"
message_burst = 5
on_excess = "drop"
[[route]]
name = "dead"
path = "/dead"
upstream = "dead"
auth = "none"
"#;

#[test]
fn the_traffic_of_a_session_is_counted_while_it_is_open_and_its_close_afterwards() {
    let upstream = Upstream::bind();
    let (_taken, dead) = refusing();
    let gate = Metered::start(&upstream, dead);
    let mut session = Session::open_over(gate.connect(), &upstream, &Request::to("/chat"), &[]);
    for n in 0..5 {
        session.client.send_text(&n.to_string());
        session.server.expect_text(&n.to_string());
    }
    session.client.send_text("dropped");
    for n in 0..3 {
        session.server.send_text(&n.to_string());
        session.client.expect_text(&n.to_string());
    }
    let server = upstream.address();
    let open = format!("tollgate_upstream_sessions{{upstream=\"main\",server=\"{server}\"}} 1");
    gate.wait_for(&[
        "tollgate_sessions{route=\"chat\",upstream=\"main\"} 1",
        &open,
        "tollgate_connections{state=\"session\"} 1",
        "tollgate_upgrades_total{route=\"chat\",outcome=\"accepted\"} 1",
        "tollgate_upgrade_duration_seconds_count{route=\"chat\"} 1",
        "tollgate_messages_total{route=\"chat\",direction=\"in\"} 5",
        "tollgate_messages_total{route=\"chat\",direction=\"out\"} 3",
        // Frames with one byte of payload; a client's frame has a mask of four bytes.
        "tollgate_bytes_total{route=\"chat\",direction=\"in\"} 35",
        "tollgate_bytes_total{route=\"chat\",direction=\"out\"} 9",
        "tollgate_throttled_total{route=\"chat\",action=\"drop\"} 1",
        "tollgate_session_duration_seconds_count{route=\"chat\"} 0",
        "tollgate_tls_handshakes_total{version=\"1.3\",resumed=\"false\",outcome=\"ok\"} 1",
        "tollgate_config_generation 1",
    ]);
    session.client.send_frame(Frame::close(4001, ""));
    session.server.expect_close(4001);
    session.server.send_frame(Frame::close(4001, ""));
    session.client.expect_close(4001);
    session.client.expect_clean_end();
    gate.wait_for(&[
        "tollgate_sessions{route=\"chat\",upstream=\"main\"} 0",
        "tollgate_connections{state=\"session\"} 0",
        "tollgate_closes_total{route=\"chat\",code=\"4xxx\",by=\"client\"} 1",
        "tollgate_messages_total{route=\"chat\",direction=\"in\"} 5",
        "tollgate_session_duration_seconds_count{route=\"chat\"} 1",
        "tollgate_connections{state=\"closing\"} 0",
    ]);
    gate.stop();
}

#[test]
fn each_request_and_each_handshake_is_counted_once_with_its_outcome() {
    let upstream = Upstream::bind();
    let (_taken, dead) = refusing();
    let gate = Metered::start(&upstream, dead);
    assert_eq!(gate.connect().ask(&Request::to("/elsewhere")).head.status(), 404);
    assert_eq!(gate.connect().ask(&Request::to("/chat").without("Upgrade")).head.status(), 426);
    assert_eq!(gate.connect().ask(&Request::to("/dead")).head.status(), 502);
    let mut malformed = gate.connect();
    malformed.send(b"no HTTP\r\n\r\n");
    assert_eq!(malformed.response().head.status(), 400);
    // A health check of a load balancer: a connection without a handshake.
    drop(TcpStream::connect(gate.address).unwrap());
    let failures = format!("tollgate_upstream_connect_failures_total{{upstream=\"dead\",server=\"{dead}\"}} 1");
    let unhealthy = format!("tollgate_upstream_healthy{{upstream=\"dead\",server=\"{dead}\"}} 0");
    gate.wait_for(&[
        "tollgate_upgrades_total{route=\"\",outcome=\"no_route\"} 1",
        "tollgate_upgrades_total{route=\"\",outcome=\"not_upgrade\"} 1",
        "tollgate_upgrades_total{route=\"\",outcome=\"head\"} 1",
        "tollgate_upgrades_total{route=\"dead\",outcome=\"unreachable\"} 1",
        &unhealthy,
        "tollgate_tls_handshakes_total{version=\"1.3\",resumed=\"false\",outcome=\"ok\"} 1",
        "tollgate_tls_handshakes_total{version=\"1.3\",resumed=\"true\",outcome=\"ok\"} 3",
        "tollgate_tls_handshakes_total{version=\"none\",resumed=\"false\",outcome=\"disconnected\"} 1",
        &failures,
    ]);
    gate.stop();
}
