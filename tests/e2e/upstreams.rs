//! Which server a session goes to, and how it is reached; and where clients come in.

use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::net::UnixListener;

use crate::refusals::full_queue;
use crate::support::gate::{Folder, Gate};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, over_unix, refusing};

#[test]
fn servers_take_turns() {
    let servers = [Upstream::bind(), Upstream::bind(), Upstream::bind()];
    let setup = servers.iter().fold(Setup::new(), |setup, server| setup.to(server.address()));
    let gate = Gate::start(setup);
    for _ in 0..2 {
        for server in &servers {
            Session::open(&gate, server).close();
            assert_eq!(gate.log.next("session ended")["server"], server.address().to_string());
        }
    }
}

/// A server that refuses is passed over, whoever's turn it is.
#[test]
fn the_next_server_takes_over() {
    let (first, (_taken, gone)) = (Upstream::bind(), refusing());
    let gate = Gate::start(Setup::new().to(first.address()).to(gone));
    for _ in 0..4 {
        Session::open(&gate, &first).close();
        assert_eq!(gate.log.next("session ended")["server"], first.address().to_string());
    }
}

/// A server that swallows what it gets keeps nobody from the others: each has its own time.
#[test]
fn a_silent_server_is_passed_over() {
    let (swallowing, waiting) = full_queue();
    let (silent, second) = (swallowing.local_addr().unwrap().as_socket().unwrap(), Upstream::bind());
    let gate = Gate::start(Setup::new().upstream("connect_timeout = \"100ms\"").to(silent).to(second.address()));
    for _ in 0..4 {
        Session::open(&gate, &second).close();
        assert_eq!(gate.log.next("session ended")["server"], second.address().to_string());
    }
    drop(waiting);
}

#[test]
fn unix_sockets() {
    let folder = Folder::new();
    let path = folder.path("upstream.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = format!("unix:{}", path.to_str().unwrap());
    let gate = Gate::start(Setup::new().to(&server));
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut upstream = over_unix(listener.accept().unwrap().0);
    upstream.open(&[]);
    assert_eq!(client.head().status(), 101);
    client.send_text("over a Unix socket");
    upstream.expect_text("over a Unix socket");
    upstream.send_text("and back");
    client.expect_text("and back");
    drop(upstream);
    assert_eq!(client.expect_close(1014), "upstream went away");
    drop(client);
    assert_eq!(gate.log.next("session ended")["server"], server);
}

#[test]
fn names() {
    let upstream = Upstream::bind();
    let server = format!("localhost:{}", upstream.address().port());
    let gate = Gate::start(Setup::new().to(&server));
    Session::open(&gate, &upstream).close();
    assert_eq!(gate.log.next("session ended")["server"], server);

    // A name that means nothing (RFC 6761 section 6.4) is a server that is not there.
    let gate = Gate::start(Setup::new().to("nowhere.invalid:80"));
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 502);
}

#[test]
fn listeners_for_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("there is no IPv6 here");
        return;
    }
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("address = \"[::1]:0\"").start(&upstream);
    let session = Session::open(&gate, &upstream);
    assert_eq!(session.asked.get("X-Forwarded-For"), Some("::1"));
    let forwarded = "for=\"[::1]\";host=\"chat.example.com\";proto=https";
    assert_eq!(session.asked.get("Forwarded"), Some(forwarded));
    session.close();
    assert_eq!(gate.log.next("session ended")["client"], "::1");
}

/// Every listener says where it is, and all lead to the same routes.
#[test]
fn several_listeners() {
    let upstream = Upstream::bind();
    let second = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
                  certificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]";
    let mut gate = Setup::new().more(second).start(&upstream);
    Session::open(&gate, &upstream).close();
    gate.go_to_next_listener();
    Session::open(&gate, &upstream).close();
}
