//! Swaps of the snapshot while real clients connect: the server runs in the test's own process.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use tollgate::config::{self, Config};
use tollgate::front::snapshot::SnapshotContext;
use tollgate::server::serve::Server;

use super::support::PATIENCE;
use super::support::gate::Folder;
use super::support::pki::{self, Leaf};
use super::support::request::Request;
use super::support::session::Client;
use super::support::upstream::{Upstream, switching};
use super::support::wire::{Frame, Head};

const CLIENTS: usize = 4;
const SESSIONS_EACH: usize = 25;

/// A configuration whose route goes to one of two upstreams, which learns that from its `Host`.
fn config(folder: &Folder, upstreams: &[(&str, &Upstream)], to: &str) -> Config {
    let sections: String = upstreams
        .iter()
        .map(|(name, upstream)| format!("[upstream.{name}]\nservers = [\"{}\"]\n", upstream.address()))
        .collect();
    let text = format!(
        r#"
        [server]
        workers = 2
        max_sessions = 200
        max_handshakes = 64
        drain_timeout = "1s"
        on_reload = "keep"
        [[listener]]
        address = "127.0.0.1:0"
        certificates = [{{ chain = "chain.pem", key = "key.pem" }}]
        {sections}
        [[route]]
        name = "chat"
        path = "/chat"
        upstream = "{to}"
        upstream_host = "{to}"
        auth = "none"
        "#
    );
    config::load(&folder.write(&format!("{to}.toml"), &text)).unwrap_or_else(|report| panic!("{report}"))
}

/// Answers every request until one for `/stop`. Each must have been meant for this upstream.
fn serve(name: &str, upstream: &Upstream) -> usize {
    let mut sessions = Vec::new();
    loop {
        let mut server = upstream.accept();
        let asked: Head = server.head();
        if asked.first_line.contains("/stop") {
            break;
        }
        assert_eq!(asked.get("host"), Some(name), "a request at another upstream than its route's");
        server.send(&switching(&asked, &[&format!("X-Upstream: {name}")]));
        sessions.push(thread::spawn(move || {
            server.expect_close(1000);
            server.send_frame(Frame::close(1000, ""));
            server.expect_clean_end();
        }));
    }
    let count = sessions.len();
    sessions.into_iter().for_each(|session| session.join().unwrap());
    count
}

#[test]
fn a_swap_under_load_sends_no_client_to_another_upstream_and_loses_no_count() {
    let folder = Folder::new();
    let leaf = Leaf::new(&["chat.example.com"]);
    folder.write("chain.pem", &leaf.chain_pem);
    folder.write("key.pem", &leaf.key_pem);
    let upstreams = [("blue", Upstream::bind()), ("green", Upstream::bind())];
    let named = [("blue", &upstreams[0].1), ("green", &upstreams[1].1)];
    let configs = [config(&folder, &named, "blue"), config(&folder, &named, "green")];
    let server = Server::bind(config::load(&folder.path("blue.toml")).unwrap(), None).unwrap();
    let (gateway, addresses) = (Arc::clone(server.gateway()), server.addresses());
    let (stop, stopped) = tokio::sync::mpsc::channel(1);
    let (is_over, answered) = (AtomicBool::new(false), Mutex::new(BTreeMap::<String, usize>::new()));
    let swaps = AtomicUsize::new(0);
    let served: Vec<usize> = thread::scope(|scope| {
        let running = scope.spawn(|| server.run(stopped, |_| ()).unwrap());
        let serving = named.map(|(name, upstream)| scope.spawn(move || serve(name, upstream)));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..SESSIONS_EACH {
                        // Each session begins after a further swap.
                        let before = swaps.load(Ordering::Relaxed);
                        while swaps.load(Ordering::Relaxed) == before {
                            thread::yield_now();
                        }
                        let stream = TcpStream::connect(addresses[0].tcp().unwrap()).unwrap();
                        let mut client = Client::handshake(stream, pki::plain_client_config(), "chat.example.com");
                        client.send(&Request::to("/chat").bytes());
                        let answer = client.head();
                        assert_eq!(answer.status(), 101, "{answer:?}");
                        let upstream = answer.get("x-upstream").unwrap().to_owned();
                        *answered.lock().unwrap().entry(upstream).or_default() += 1;
                        client.send_frame(Frame::close(1000, ""));
                        client.expect_close(1000);
                        client.expect_clean_end();
                    }
                })
            })
            .collect();
        let swapping = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let number = swaps.load(Ordering::Relaxed) + 1;
                let context = SnapshotContext {
                    addresses: &addresses,
                    max_sessions: NonZeroU32::new(200).unwrap(),
                    counters: &gateway.counters,
                    key_sets: &gateway.key_sets,
                    acme: &gateway.acme,
                    now: tollgate::runtime::clock::now(),
                };
                gateway.update(|before| before.next(&configs[number % 2], context)).unwrap();
                swaps.store(number, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        // The swaps end whether or not a client failed.
        let results: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
        swapping.join().unwrap();
        let swaps = swaps.load(Ordering::Relaxed);
        assert_eq!(gateway.snapshot().generation(), swaps as u64 + 1);
        assert!(swaps >= SESSIONS_EACH, "only {swaps} swaps");
        for (_, upstream) in named {
            use std::io::Write as _;
            TcpStream::connect(upstream.address()).unwrap().write_all(b"GET /stop HTTP/1.1\r\n\r\n").unwrap();
        }
        let served = serving.map(|serving| serving.join().unwrap());
        // Both ends are closed, and the proxy notices it within its linger time.
        let until = Instant::now() + PATIENCE;
        while gateway.counters.sessions() > 0 || gateway.process.lifecycle.sessions() > 0 {
            assert!(Instant::now() < until, "{} sessions are still counted", gateway.counters.sessions());
            thread::yield_now();
        }
        drop(stop);
        running.join().unwrap();
        served.to_vec()
    });
    let answered = answered.into_inner().unwrap();
    let counts = ["blue", "green"].map(|name| answered.get(name).copied().unwrap_or_default());
    assert_eq!(counts, served[..]);
    assert_eq!(counts.iter().sum::<usize>(), CLIENTS * SESSIONS_EACH);
    assert!(counts.iter().all(|count| *count > 0), "the load was at one upstream: {counts:?}");
}
