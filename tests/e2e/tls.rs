//! TLS towards clients: versions, ALPN, certificates, resumption, and bytes that are not TLS.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki::{Leaf, client_config};
use crate::support::request::Request;
use crate::support::secrets::remember;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Peer;

#[test]
fn tls_1_2_and_1_3_negotiate_http_1_1_only() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for (offered, picked) in [(&["h2", "http/1.1"][..], Some("http/1.1")), (&[], None)] {
            let mut config = client_config(&[version]);
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let client = Client::connect_with(&gate, Arc::new(config), "chat.example.com");
            assert_eq!(client.stream.conn.protocol_version(), Some(expected));
            assert_eq!(client.stream.conn.alpn_protocol(), picked.map(str::as_bytes));
            Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
        }
    }
    // A client that offers only HTTP/2 gets the alert for it, in TLS 1.3 after the ServerHello.
    for version in [&TLS12, &TLS13] {
        let mut config = client_config(&[version]);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let error = handshake_error(&gate, config);
        assert!(error.contains("NoApplicationProtocol"), "{version:?}: {error}");
    }
}

fn handshake_error(gate: &Gate, config: ClientConfig) -> String {
    let mut stream = TcpStream::connect(gate.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), "chat.example.com".try_into().unwrap()).unwrap();
    loop {
        match tls.complete_io(&mut stream) {
            Ok(_) if tls.is_handshaking() => {}
            Ok(_) => panic!("the handshake succeeded"),
            Err(error) => return error.to_string(),
        }
    }
}

#[test]
fn the_server_name_selects_the_certificate() {
    let leaves = [
        Leaf::new(&["first.example", "localhost", "127.0.0.1"]),
        Leaf::new(&["*.wild.example"]),
        Leaf::new(&["exact.wild.example", "also.example"]),
    ];
    let upstream = Upstream::bind();
    let gate = leaves.iter().fold(Setup::new(), |setup, leaf| setup.certificate(leaf.clone())).start(&upstream);
    let table = [
        ("first.example", 0),
        ("a.wild.example", 1),
        ("A.Wild.Example", 1),
        ("exact.wild.example", 2),
        ("also.example", 2),
        // An address is not a server name, so the first certificate is used.
        ("127.0.0.1", 0),
    ];
    for (name, number) in table {
        let client = Client::connect_with(&gate, Arc::new(client_config(rustls::ALL_VERSIONS)), name);
        assert_eq!(client.stream.conn.peer_certificates().unwrap()[0], leaves[number].der, "{name}");
    }
    // No certificate matches these, so the first is served, which a verifying client rejects.
    for name in ["a.b.wild.example", "wild.example", "unknown.example"] {
        let mut stream = TcpStream::connect(gate.address()).unwrap();
        let config = Arc::new(client_config(rustls::ALL_VERSIONS));
        let mut tls = rustls::ClientConnection::new(config, name.try_into().unwrap()).unwrap();
        let mut handshake = || {
            while tls.is_handshaking() {
                tls.complete_io(&mut stream)?;
            }
            std::io::Result::Ok(())
        };
        let error = handshake().unwrap_err().to_string();
        assert!(error.contains("first.example"), "{name}: {error}");
    }
}

/// A returning client resumes its session in either version, but cannot send early data: an opening handshake in early
/// data could be replayed.
#[test]
fn sessions_are_resumed_without_early_data() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    for version in [&TLS12, &TLS13] {
        let mut config = client_config(&[version]);
        config.enable_early_data = true;
        let config = Arc::new(config);
        let connect = || Client::connect_with(&gate, Arc::clone(&config), "chat.example.com");
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut client: Client = connect();
            assert_eq!(client.stream.conn.handshake_kind(), Some(expected), "{version:?}");
            assert!(!client.stream.conn.is_early_data_accepted());
            assert!(client.stream.conn.early_data().is_none(), "the ticket allows no early data");
            // TLS 1.3 tickets follow the handshake, so they are read together with the session.
            let session = Session::open_over(client, &upstream, &Request::to("/open/"), &[]);
            let tickets = if version == &TLS13 { 1 } else { 0 };
            assert_eq!(session.client.stream.conn.tls13_tickets_received(), tickets, "one ticket per connection");
            session.close();
        }
    }
}

/// A client that has a ticket of one node resumes its session at every node with the same secret, in either version, and
/// has a full handshake at one with another secret. A changed file has no effect before a restart.
#[test]
fn sessions_are_resumed_at_every_node_of_a_cluster() {
    let upstream = Upstream::bind();
    let secrets = ["the secret of the nodes, for tests 1", "the secret of the nodes, for tests 2"];
    secrets.iter().for_each(|secret| remember(secret));
    let node = |secret: &str| {
        // The servers are never reached: the keys need none.
        let cluster = "[cluster]\nurl = \"unix:/nonexistent/redis.sock\"\nsecret_file = \"cluster-secret\"\n";
        Setup::new().more(cluster).file("cluster-secret", secret).start(&upstream)
    };
    let (first, second, other) = (node(secrets[0]), node(secrets[0]), node(secrets[1]));
    let connect = |gate: &Gate, config: &Arc<ClientConfig>, expected: HandshakeKind| {
        let client = Client::connect_with(gate, Arc::clone(config), "chat.example.com");
        assert_eq!(client.stream.conn.handshake_kind(), Some(expected), "{:?}", client.stream.conn.protocol_version());
        // TLS 1.3 tickets follow the handshake, so they are read together with the session.
        Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    };
    let configs = [&TLS12, &TLS13].map(|version| Arc::new(client_config(&[version])));
    for config in &configs {
        connect(&first, config, HandshakeKind::Full);
        connect(&second, config, HandshakeKind::Resumed);
        connect(&first, config, HandshakeKind::Resumed);
        connect(&other, config, HandshakeKind::Full);
        connect(&first, config, HandshakeKind::Full);
    }
    std::fs::write(first.folder.path("cluster-secret"), secrets[1]).unwrap();
    first.log.next("cluster changes only at a restart or `tollgate upgrade`");
    for config in &configs {
        connect(&second, config, HandshakeKind::Resumed);
        connect(&first, config, HandshakeKind::Resumed);
    }
}

/// A connection that does not speak TLS is closed at once, with at most an alert, and not only at `handshake_timeout`.
#[test]
fn connections_that_do_not_speak_tls_are_closed_at_once() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("handshake_timeout = \"5m\"").start(&upstream);
    for bytes in [Request::to("/open/").bytes(), b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), vec![0; 1000]] {
        let mut stream = TcpStream::connect(gate.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&bytes).unwrap();
        let (answer, _) = Peer::new(stream, true).rest();
        assert!(answer.len() <= 7 && answer.first().is_none_or(|kind| *kind == 0x15), "an alert at most: {answer:?}");
    }
    upstream.assert_untouched();
}

/// Returns the certificate that a client gets for this server name, without verifying it.
fn shown_to(gate: &Gate, name: &'static str) -> Vec<u8> {
    let mut stream = TcpStream::connect(gate.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut config = client_config(rustls::ALL_VERSIONS);
    let seen = Arc::new(Seen::default());
    config.dangerous().set_certificate_verifier(Arc::clone(&seen) as _);
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
    let seen = seen.0.lock().unwrap().clone();
    assert!(!seen.is_empty(), "no certificate was received");
    seen
}

/// A verifier that records the certificate and rejects it.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<u8>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = end_entity.to_vec();
        Err(rustls::Error::General("seen".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("the certificate was rejected before")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("the certificate was rejected before")
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// An expired certificate does not affect the others, and is served only if no valid one matches.
#[test]
fn an_expired_certificate_is_served_and_logged() {
    let leaves = [
        Leaf::expired(&["old.example", "renewed.example", "a.wild.example"]),
        Leaf::new(&["chat.example.com"]),
        Leaf::new(&["renewed.example", "*.wild.example"]),
        Leaf::expired(&["*.wild.example"]),
    ];
    let upstream = Upstream::bind();
    let gate = leaves.iter().fold(Setup::new(), |setup, leaf| setup.certificate(leaf.clone())).start(&upstream);
    let expired = |line: &str| line.contains("\"ERROR\"") && line.contains("the certificate expired at 2001-01-01");
    gate.log.wait_until("two certificates", |lines| lines.iter().filter(|line| expired(line)).count() == 2);
    let table = [
        ("chat.example.com", 1),
        ("old.example", 0),
        ("renewed.example", 2),
        // A valid wildcard certificate takes precedence over an expired one for the exact name.
        ("a.wild.example", 2),
        ("b.wild.example", 2),
        // An unknown name and an address get the first valid certificate.
        ("unknown.example", 1),
        ("127.0.0.1", 1),
    ];
    for (name, number) in table {
        assert!(shown_to(&gate, name) == leaves[number].der.to_vec(), "{name}");
    }
    Session::open(&gate, &upstream).close();
}

/// A listener whose certificates have all expired still starts if another listener has a valid one.
#[test]
fn startup_fails_only_if_all_certificates_have_expired() {
    let old = || Leaf::expired(&["chat.example.com"]);
    let mut gate = Gate::launch(Setup::new().to("127.0.0.1:1").certificate(old()).certificate(old()));
    assert_eq!(gate.wait_exit().code(), Some(78));
    let text = gate.log.text();
    assert!(text.contains("no certificate is valid now"), "{text}");

    let more =
        "[[listener]]\naddress = \"127.0.0.1:0\"\ncertificates = [{ chain = \"chain-1.pem\", key = \"key-1.pem\" }]";
    let setup = Setup::new().to("127.0.0.1:1").certificate(old()).certificate(Leaf::new(&["chat.example.com"]));
    let mut gate =
        Gate::launch(setup.more(more).listener("certificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]"));
    gate.log.next("listening");
    gate.go_to_next_listener();
    assert_eq!(Client::connect(&gate).ask(&Request::to("/elsewhere")).head.status(), 404);
}

#[test]
fn a_certificate_that_expires_at_run_time_is_logged() {
    let upstream = Upstream::bind();
    let leaves = [Leaf::expiring(&["short.example"], 2), Leaf::new(&["chat.example.com"])];
    let gate = leaves.iter().fold(Setup::new(), |setup, leaf| setup.certificate(leaf.clone())).start(&upstream);
    gate.log.wait_for("the expiry", |line| line.contains("\"ERROR\"") && line.contains("expired"));
    // From then on the other certificate is the first valid one.
    assert!(shown_to(&gate, "unknown.example") == leaves[1].der.to_vec());
}
