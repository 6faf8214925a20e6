//! TLS towards servers: certificates and names, client certificates, resumption, closes, and servers that stall.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, HandshakeKind, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use serde_json::json;

use crate::admin::Api;
use crate::keys::check_online;
use crate::support::PATIENCE;
use crate::support::gate::{Folder, Gate};
use crate::support::pki::{Leaf, authority_pem};
use crate::support::request::Request;
use crate::support::session::Client;
use crate::support::setup::Setup;
use crate::support::tls_server::{self, TlsServer, accept, open};
use crate::support::upstream::Upstream;
use crate::support::wire::{BINARY, End, Frame, PING, PONG, Peer};

/// The setting of an upstream whose servers have certificates of the authority for this name.
const NAMED: &str = "tls = { ca = \"servers.pem\", server_name = \"chat.internal\" }";

/// Returns a setup with these settings, and the authority of the servers in `servers.pem`.
fn setup(tls: &str) -> Setup {
    Setup::new().upstream(tls).file("servers.pem", &authority_pem())
}

/// Returns the configuration of a server with a certificate for `chat.internal`.
fn named(versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    tls_server::config(&Leaf::new(&["chat.internal"]), versions, false)
}

/// Returns the certificate of another authority.
fn stranger_pem() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "a stranger");
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn echo(client: &mut Client, server: &mut TlsServer, text: &str) {
    client.send_text(text);
    server.expect_text(text);
    server.send_text(text);
    client.expect_text(text);
}

/// Write timeout after which a flood counts as blocked.
const BLOCKED: Duration = Duration::from_millis(200);

/// Sets both the read and the write timeout, since rustls tries to read when it cannot write.
fn set_timeout(server: &TlsServer, timeout: Duration) {
    server.stream.sock.set_read_timeout(Some(timeout)).unwrap();
    server.stream.sock.set_write_timeout(Some(timeout)).unwrap();
}

/// Closes a session with a complete closing handshake. The server sees our `close_notify`.
fn close((mut client, mut server): (Client, TlsServer)) {
    client.send_frame(Frame::close(1000, ""));
    server.expect_close(1000);
    server.send_frame(Frame::close(1000, ""));
    client.expect_close(1000);
    client.expect_clean_end();
    server.expect_clean_end();
}

#[test]
fn messages_of_any_size_pass_in_both_directions() {
    const BYTES: usize = 5 << 20;
    for version in [&TLS12, &TLS13] {
        let (upstream, config) = (Upstream::bind(), named(&[version]));
        let gate = setup(NAMED).limits("message_max_size = \"8MiB\"").start(&upstream);
        let (mut client, mut server) = open(&gate, &upstream, &config);
        let tls = &server.stream.conn;
        assert_eq!(tls.protocol_version(), Some(version.version));
        assert_eq!((tls.alpn_protocol(), tls.server_name()), (Some(&b"http/1.1"[..]), Some("chat.internal")));
        echo(&mut client, &mut server, "hello");
        let payload: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let frame = server.frame();
                assert_eq!((frame.opcode, frame.payload.len()), (BINARY, BYTES));
                server.send_frame(Frame::new(BINARY, frame.payload));
            });
            client.send_frame(Frame::new(BINARY, &payload));
            assert_eq!(client.frame().payload, payload, "{version:?}");
        });
        for number in 0..100 {
            echo(&mut client, &mut server, &format!("message {number}"));
        }
        close((client, server));
    }
}

/// The host of the address is the name: an IP address must be one of the certificate, and is not sent as SNI.
#[test]
fn the_host_of_the_address_is_verified_by_default() {
    let upstream = Upstream::bind();
    let port = upstream.address().port();
    for (host, name, sni) in [("127.0.0.1", "127.0.0.1", None), ("LocalHost", "localhost", Some("localhost"))] {
        let config = tls_server::config(&Leaf::new(&[name]), ALL_VERSIONS, false);
        let gate = Gate::start(setup("tls = { ca = \"servers.pem\" }").to(format!("{host}:{port}")));
        let (mut client, mut server) = open(&gate, &upstream, &config);
        assert_eq!(server.stream.conn.server_name(), sni);
        echo(&mut client, &mut server, host);
        close((client, server));
    }
}

/// Asks for a session whose server fails the handshake. Returns the error in the log.
fn error_of(gate: &Gate, upstream: &Upstream, config: &Arc<ServerConfig>) -> String {
    let mut client = Client::connect(gate);
    client.send(&Request::to("/open/").bytes());
    // In TLS 1.3 the server completes the handshake before it learns that the proxy accepts it.
    let accepted = accept(upstream, config);
    if let Ok(mut server) = accepted {
        server.rest();
    }
    assert_eq!(client.response().head.status(), 502);
    let line = gate.log.next("server failed");
    assert_eq!((&line["upstream"], &line["server"]), (&json!("main"), &json!(upstream.address().to_string())));
    line["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_that_cannot_be_verified_gets_no_request() {
    let good = Leaf::new(&["chat.internal"]);
    let stranger = stranger_pem();
    let other = Leaf::new(&["other.internal"]);
    let all = ALL_VERSIONS;
    let table = [
        (NAMED, tls_server::config(&other, all, false), "not valid for name \"chat.internal\""),
        (NAMED, tls_server::config(&Leaf::expired(&["chat.internal"]), all, false), "expired"),
        ("tls = { ca = \"servers.pem\" }", tls_server::config(&good, all, false), "not valid for name"),
        (
            "tls = { ca = \"stranger.pem\", server_name = \"chat.internal\" }",
            tls_server::config(&good, all, false),
            "UnknownIssuer",
        ),
        (
            "tls = { ca = \"servers.pem\", server_name = \"chat.internal\", min_version = \"1.3\" }",
            tls_server::config(&good, &[&TLS12], false),
            "ProtocolVersion",
        ),
    ];
    for (tls, config, expected) in table {
        let upstream = Upstream::bind();
        let gate = setup(tls).file("stranger.pem", &stranger).start(&upstream);
        let error = error_of(&gate, &upstream, &config);
        assert!(error.contains(expected), "{tls}: {error}");
    }
}

/// `SSL_CERT_FILE` names the roots of the system. Without any root no server can be verified, which is not its failure.
#[test]
fn the_roots_of_the_system_are_the_default() {
    let (folder, upstream, config) = (Folder::new(), Upstream::bind(), named(ALL_VERSIONS));
    let roots = folder.write("roots.pem", &authority_pem());
    let empty = folder.write("empty.pem", "");
    let with = |roots: &std::path::Path| {
        let setup = Setup::new().upstream("tls = { server_name = \"chat.internal\" }").environment("SSL_CERT_DIR", "");
        setup.environment("SSL_CERT_FILE", roots.to_str().unwrap()).start(&upstream)
    };
    let gate = with(&roots);
    close(open(&gate, &upstream, &config));
    let gate = with(&empty);
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 502);
    let line = gate.log.next("refused");
    assert!(line["detail"].as_str().unwrap().contains("no root certificate can be used"), "{line}");
    assert!(gate.log.all("server failed").is_empty());
    drop(upstream.accept());
}

/// A server that does not speak TLS fails the handshake, too.
#[test]
fn a_plain_server_gets_no_request() {
    let upstream = Upstream::bind();
    let gate = setup(NAMED).start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    server.send(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(client.response().head.status(), 502);
    let (received, _) = server.rest();
    assert_eq!(received[0], 22, "a TLS handshake record");
    let error = gate.log.next("server failed")["error"].to_string();
    assert!(error.contains("InvalidContentType"), "{error}");
}

#[test]
fn a_client_certificate_is_presented_to_servers_that_demand_one() {
    let own = Leaf::new(&["tollgate.internal"]);
    let with =
        "tls = { ca = \"servers.pem\", server_name = \"chat.internal\", certificate = \"own.pem\", key = \"own.key\" }";
    for version in [&TLS12, &TLS13] {
        let upstream = Upstream::bind();
        let config = tls_server::config(&Leaf::new(&["chat.internal"]), &[version], true);
        let gate = setup(with).file("own.pem", &own.chain_pem).file("own.key", &own.key_pem).start(&upstream);
        let (mut client, mut server) = open(&gate, &upstream, &config);
        let presented: Option<&[CertificateDer<'_>]> = server.stream.conn.peer_certificates();
        assert_eq!(presented, Some(std::slice::from_ref(&own.der)));
        echo(&mut client, &mut server, "hello");
        close((client, server));

        let gate = setup(NAMED).start(&upstream);
        let error = error_of(&gate, &upstream, &config);
        assert!(error.contains("received fatal alert"), "{version:?}: {error}");
    }
}

/// The second session resumes the first one, also after a reload that does not change `tls`, but not with other roots.
#[test]
fn tls_sessions_are_resumed() {
    for version in [&TLS12, &TLS13] {
        let (upstream, config) = (Upstream::bind(), named(&[version]));
        let gate = setup(NAMED).server("workers = 1").start(&upstream);
        let connect = |expected| {
            let (mut client, mut server) = open(&gate, &upstream, &config);
            assert_eq!(server.stream.conn.handshake_kind(), Some(expected), "{version:?}");
            // TLS 1.3 tickets are read together with the message.
            echo(&mut client, &mut server, "hello");
            close((client, server));
        };
        connect(HandshakeKind::Full);
        connect(HandshakeKind::Resumed);
        gate.reload(|text| text.replace("[upstream.main]", "[upstream.main]\nretries = 1"));
        connect(HandshakeKind::Resumed);
        gate.reload(|text| text.replace("tls = { ", "tls = { min_version = \"1.2\", "));
        connect(HandshakeKind::Resumed);
        gate.reload(|text| text.replace("tls = { ", "tls = { certificate = \"chain-0.pem\", key = \"key-0.pem\", "));
        connect(HandshakeKind::Full);
    }
}

/// A ticket is used only for the server that issued it.
#[test]
fn each_server_has_its_own_sessions_to_resume() {
    let (servers, configs) = ([Upstream::bind(), Upstream::bind()], [named(&[&TLS13]), named(&[&TLS13])]);
    let setup = servers.iter().fold(setup(NAMED), |setup, server| setup.to(server.address()));
    let gate = Gate::start(setup.upstream("balance = \"round_robin\""));
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        for (server, config) in servers.iter().zip(&configs) {
            let (mut client, mut server) = open(&gate, server, config);
            assert_eq!(server.stream.conn.handshake_kind(), Some(expected));
            echo(&mut client, &mut server, "hello");
            close((client, server));
        }
    }
}

/// Roots and client certificates that change on disk are used for the next connections.
#[test]
fn changed_files_are_used_without_a_reload() {
    let (upstream, config) = (Upstream::bind(), named(ALL_VERSIONS));
    let stranger = stranger_pem();
    let setup = Setup::new().upstream(NAMED).file("servers.pem", &stranger);
    let gate = setup.start(&upstream);
    let error = error_of(&gate, &upstream, &config);
    assert!(error.contains("UnknownIssuer"), "{error}");
    std::fs::write(gate.folder.path("servers.pem"), authority_pem()).unwrap();
    gate.log.next("files reloaded");
    close(open(&gate, &upstream, &config));
}

/// Without a Close, the end of the connection is a disconnect with and without a `close_notify`, which alone ends only
/// the server's direction. After a Close either is in order.
#[test]
fn an_end_of_the_connection_counts_as_without_tls() {
    for notifies in [false, true] {
        for closes in [false, true] {
            let (upstream, config) = (Upstream::bind(), named(ALL_VERSIONS));
            let gate = setup(NAMED).start(&upstream);
            let (mut client, mut server) = open(&gate, &upstream, &config);
            echo(&mut client, &mut server, "hello");
            server.send_text("last");
            if closes {
                client.send_frame(Frame::close(1000, ""));
                server.expect_close(1000);
                server.send_frame(Frame::close(1000, ""));
            }
            if notifies {
                server.stream.conn.send_close_notify();
                server.send(b"");
            }
            server.stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
            client.expect_text("last");
            let (code, reason) = if closes { (1000, "") } else { (1014, "upstream went away") };
            assert_eq!(client.expect_close(code), reason, "{notifies} {closes}");
            if !closes {
                client.send_frame(Frame::close(1014, ""));
            }
            assert_eq!(client.expect_end(), End::Clean);
            let line = gate.log.next("session ended");
            let (by, cause) = if closes { ("client", "closed") } else { ("upstream", "upstream_gone") };
            assert_eq!((&line["by"], &line["cause"]), (&json!(by), &json!(cause)), "{line}");
        }
    }
}

/// A server that accepts connections and never answers the `ClientHello` costs `connect_timeout`, and the next server is
/// tried. Alone it fails the request.
#[test]
fn a_server_that_does_not_answer_the_client_hello_is_passed_over() {
    let (silent, second, config) = (Upstream::bind(), Upstream::bind(), named(ALL_VERSIONS));
    let timeout = "connect_timeout = \"200ms\"";
    let gate = Gate::start(setup(NAMED).upstream(timeout).to(silent.address()).to(second.address()));
    for _ in 0..4 {
        close(open(&gate, &second, &config));
        assert_eq!(gate.log.next("session ended")["server"], second.address().to_string());
    }
    let gate = setup(NAMED).upstream(timeout).start(&silent);
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 504);
    let line = gate.log.next("server failed");
    assert_eq!(line["error"], "the TLS handshake timed out", "{line}");
}

/// A server that fails the handshake does not keep the request from the next one.
#[test]
fn the_next_server_is_tried_after_a_failed_handshake() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let configs = [tls_server::config(&Leaf::new(&["other.internal"]), ALL_VERSIONS, false), named(ALL_VERSIONS)];
    let setup = servers.iter().fold(setup(NAMED), |setup, server| setup.to(server.address()));
    let gate = Gate::start(setup.upstream("balance = \"round_robin\""));
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let failing = accept(&servers[0], &configs[0]).map(|mut server| server.rest());
    assert!(failing.is_err() || failing.is_ok_and(|(received, _)| received.is_empty()));
    let mut server = accept(&servers[1], &configs[1]).unwrap();
    server.open(&[]);
    assert_eq!(client.head().status(), 101);
    close((client, server));
}

/// The PROXY header is not encrypted: a server, or a balancer in front of it, reads it before TLS.
#[test]
fn the_proxy_header_precedes_the_handshake() {
    let (upstream, config) = (Upstream::bind(), named(ALL_VERSIONS));
    let gate = setup(NAMED).upstream("proxy_protocol = true").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let (header, plain) = upstream.accept_proxied();
    assert_eq!((&header[..12], header[12]), (&b"\r\n\r\n\0\r\nQUIT\n"[..], 0x21));
    let mut server = tls_server::handshake(plain.stream, &config).unwrap();
    server.open(&[]);
    assert_eq!(client.head().status(), 101);
    close((client, server));
}

#[test]
fn servers_on_unix_sockets_are_verified_by_server_name() {
    let (folder, config) = (Folder::new(), named(ALL_VERSIONS));
    let path = folder.path("upstream.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let gate = Gate::start(setup(NAMED).to(format!("unix:{}", path.to_str().unwrap())));
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut stream = listener.accept().unwrap().0;
    let mut tls = ServerConnection::new(config).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).unwrap();
    }
    let mut server = Peer::new(StreamOwned::new(tls, stream), false);
    server.open(&[]);
    assert_eq!(client.head().status(), 101);
    client.send_text("over a Unix socket");
    server.expect_text("over a Unix socket");
}

/// Servers that read nothing, or answer no ping, end their sessions as plain ones do.
#[test]
fn stalled_servers_end_their_sessions() {
    let (upstream, config) = (Upstream::bind(), named(ALL_VERSIONS));
    let limits = "write_timeout = \"2s\"\nclose_timeout = \"100ms\"\nping_interval = \"off\"";
    let gate = setup(NAMED).limits(limits).start(&upstream);
    let (mut client, server) = open(&gate, &upstream, &config);
    client.set_timeout(BLOCKED);
    client.flood();
    let line = gate.log.next("session ended");
    assert_eq!((&line["cause"], &line["code"]), (&json!("upstream_write_stall"), &json!(1014)), "{line}");
    drop(server);

    let limits = "upstream_ping_interval = \"100ms\"\npong_timeout = \"1s\"\nclose_timeout = \"100ms\"";
    let gate = setup(NAMED).limits(limits).start(&upstream);
    let (_client, mut server) = open(&gate, &upstream, &config);
    for _ in 0..2 {
        let ping = server.frame();
        assert_eq!(ping.opcode, PING);
        server.send_frame(Frame::new(PONG, ping.payload));
    }
    let line = gate.log.next("session ended");
    assert_eq!((&line["cause"], &line["code"]), (&json!("upstream_no_pong"), &json!(1014)), "{line}");
}

/// A ping that waits behind megabytes for a slow server is given time while the server acknowledges some of them.
#[test]
fn a_slow_server_has_time_for_a_ping_behind_other_bytes() {
    const MESSAGE_BYTES: usize = 2 << 20;
    let (upstream, config) = (Upstream::bind(), named(ALL_VERSIONS));
    upstream.set_receive_buffer(64 << 10);
    let limits =
        "upstream_ping_interval = \"1s\"\npong_timeout = \"1s\"\nwrite_timeout = \"1m\"\nmessage_max_size = \"8MiB\"";
    let gate = setup(NAMED).limits(limits).start(&upstream);
    let (mut client, mut server) = open(&gate, &upstream, &config);
    let payload = vec![7; MESSAGE_BYTES];
    thread::scope(|scope| {
        scope.spawn(|| client.send_frame(Frame::new(BINARY, &payload)));
        // Takes about 3 s, in steps that are short compared to the `pong_timeout`.
        let mut received = Vec::new();
        while received.len() < 14 + MESSAGE_BYTES {
            received.extend(server.take((14 + MESSAGE_BYTES - received.len()).min(16 << 10)));
            thread::sleep(Duration::from_millis(25));
        }
    });
    let ping = server.frame();
    assert_eq!(ping.opcode, PING);
    server.send_frame(Frame::new(PONG, ping.payload));
    echo(&mut client, &mut server, "alive");
}

/// A server gets every byte that the client sent although it reads slowly, and so does a client.
#[test]
fn a_server_that_catches_up_loses_nothing() {
    let (upstream, config) = (Upstream::bind(), named(ALL_VERSIONS));
    let gate = setup(NAMED).limits("ping_interval = \"off\"").start(&upstream);
    let (mut client, mut server) = open(&gate, &upstream, &config);
    client.set_timeout(BLOCKED);
    let (sent, rest) = client.flood();
    client.set_timeout(PATIENCE);
    thread::scope(|scope| {
        scope.spawn(|| client.send(&rest));
        let whole = Frame::new(BINARY, vec![0x5a; 60 << 10]).masked().bytes();
        let received = server.take(sent + rest.len());
        assert!(received.iter().zip(whole.iter().cycle()).all(|(came, sent)| came == sent), "in order and whole");
    });
    set_timeout(&server, BLOCKED);
    let (sent, rest) = server.flood();
    set_timeout(&server, PATIENCE);
    thread::scope(|scope| {
        scope.spawn(|| server.send(&rest));
        let whole = Frame::new(BINARY, vec![0x5a; 60 << 10]).bytes();
        let received = client.take(sent + rest.len());
        assert!(received.iter().zip(whole.iter().cycle()).all(|(came, sent)| came == sent), "in order and whole");
    });
    close((client, server));
}

#[test]
fn check_online_does_the_handshake_with_each_server() {
    let (good, bad) = (Upstream::bind(), Upstream::bind());
    let configs = [named(ALL_VERSIONS), tls_server::config(&Leaf::new(&["other.internal"]), ALL_VERSIONS, false)];
    let gate = setup(NAMED).start(&good);
    let answer = |upstream: &Upstream, config| drop(accept(upstream, config).map(|mut server| server.rest()));
    thread::scope(|scope| {
        scope.spawn(|| answer(&good, &configs[0]));
        let (code, out, err) = check_online(&gate);
        assert_eq!((code, err.lines().filter(|line| line.starts_with("error")).count()), (Some(0), 0), "{err}");
        let line = format!("upstream \"main\": {}: the TLS handshake succeeds\n", good.address());
        assert!(out.contains(&line), "{out}");
    });
    let more = format!("servers = [\"{}\", \"{}\"]", good.address(), bad.address());
    gate.edit(|text| text.replace(&format!("servers = [\"{}\"]", good.address()), &more));
    thread::scope(|scope| {
        scope.spawn(|| answer(&good, &configs[0]));
        scope.spawn(|| answer(&bad, &configs[1]));
        let (code, _, err) = check_online(&gate);
        let line = err.lines().find(|line| line.starts_with("error: ")).expect("an error");
        assert!(line.contains(&format!("upstream \"main\": {}: ", bad.address())), "{err}");
        assert!(line.contains("not valid for name") && code == Some(1), "{err}");
    });
}

#[test]
fn the_admin_api_shows_upstreams_with_tls() {
    let (api, upstream) = (Api::new(), Upstream::bind());
    let other = format!("[upstream.other]\nservers = [\"{}\"]", upstream.address());
    let own = "tls = { ca = \"servers.pem\", server_name = \"chat.internal\", certificate = \"chain-0.pem\", key = \"key-0.pem\" }";
    let gate = setup(own).more(&api.section()).more(&other).start(&upstream);
    let found = api.get("/v1/upstreams");
    let shown = |name: &str| {
        let all = found["upstreams"].as_array().unwrap();
        all.iter().find(|upstream| upstream["name"] == name).unwrap().clone()
    };
    assert_eq!((&shown("main")["tls"], &shown("other")["tls"]), (&json!(true), &json!(false)));
    let session = open(&gate, &upstream, &named(&[&TLS12]));
    api.wait_for_sessions(1);
    assert_eq!(api.sessions("")[0]["upstream_tls_version"], json!("TLSv1_2"));
    close(session);
    let (_, metrics) = api.ask("GET", "/metrics", None);
    let expires = "tollgate_certificate_expiry_timestamp_seconds{name=\"upstream.main.tls\"} ";
    assert!(metrics.as_str().unwrap().contains(expires), "{metrics}");
}
