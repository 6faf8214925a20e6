//! Tests against rustls: it does the handshake with itself, then our record layer takes over the client or the server.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, OnceLock};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, KeyLog, RootCertStore, ServerConfig, ServerConnection};
use tollgate::record::{Alert, Content, ContentType, Opened, Opener, Sealer, Suite, TrafficSecret, Violation};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

#[derive(Debug, Default)]
struct Secrets {
    client: Mutex<Vec<u8>>,
    server: Mutex<Vec<u8>>,
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => *self.client.lock().unwrap() = secret.to_vec(),
            "SERVER_TRAFFIC_SECRET_0" => *self.server.lock().unwrap() = secret.to_vec(),
            _ => {}
        }
    }
}

pub fn certificate() -> &'static (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static MADE: OnceLock<(CertificateDer<'static>, PrivateKeyDer<'static>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.der().clone(), PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()))
    })
}

/// Returns both ends after a handshake, and the traffic secrets.
fn handshake(suite: Suite) -> (ClientConnection, ServerConnection, Arc<Secrets>) {
    let mut provider = default_provider();
    provider.cipher_suites = vec![match suite {
        Suite::Aes128Gcm => cipher_suite::TLS13_AES_128_GCM_SHA256,
        Suite::Aes256Gcm => cipher_suite::TLS13_AES_256_GCM_SHA384,
        Suite::ChaCha20Poly1305 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    }];
    let provider = Arc::new(provider);
    let (chain, key) = certificate();
    let mut roots = RootCertStore::empty();
    roots.add(chain.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let mut client =
        client.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![chain.clone()], key.clone_key()).unwrap();
    server.enable_secret_extraction = true;
    let secrets = Arc::new(Secrets::default());
    server.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;

    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    (client, server, secrets)
}

/// Our end and the end of rustls, connected in memory.
struct Pair {
    opener: Opener,
    sealer: Sealer,
    rustls: Connection,
    /// Records on the way to our end.
    to_us: Vec<u8>,
    /// The plaintext that rustls has received.
    got: Vec<u8>,
    /// The plaintext that our end has received.
    opened: Vec<u8>,
}

impl Pair {
    fn new(suite: Suite, ours: Role) -> Self {
        let (client, server, secrets) = handshake(suite);
        let secret = |bytes: &Mutex<Vec<u8>>| TrafficSecret::new(suite, &bytes.lock().unwrap()).unwrap();
        let (client_secret, server_secret) = (secret(&secrets.client), secret(&secrets.server));
        let (extracted, rustls, (write, read)) = match ours {
            Role::Client => {
                let extracted = client.dangerous_extract_secrets().unwrap();
                (extracted, Connection::from(server), (client_secret, server_secret))
            }
            Role::Server => {
                let extracted = server.dangerous_extract_secrets().unwrap();
                (extracted, Connection::from(client), (server_secret, client_secret))
            }
        };
        let (sealer, opener) = (Sealer::new(write, extracted.tx.0), Opener::new(read, extracted.rx.0));
        Self { opener, sealer, rustls, to_us: Vec::new(), got: Vec::new(), opened: Vec::new() }
    }

    /// Sends from our end. rustls reads the records in pieces of `cut` bytes.
    fn send(&mut self, plaintext: &[u8], cut: usize) {
        let mut records = vec![0; Sealer::sealed_max(plaintext.len())];
        let sealed = self.sealer.seal(ContentType::ApplicationData, plaintext, &mut records).unwrap();
        assert_eq!(sealed.taken, plaintext.len());
        for mut piece in records[..sealed.written].chunks(cut) {
            while !piece.is_empty() {
                self.rustls.read_tls(&mut piece).unwrap();
                self.rustls.process_new_packets().unwrap();
                // rustls returns an error when there is no more plaintext for now.
                let _ = self.rustls.reader().read_to_end(&mut self.got);
            }
        }
    }

    /// Sends from rustls.
    fn receive(&mut self, plaintext: &[u8]) {
        self.rustls.writer().write_all(plaintext).unwrap();
        while self.rustls.wants_write() {
            self.rustls.write_tls(&mut self.to_us).unwrap();
        }
    }

    /// Reads up to `cut` bytes at our end and opens the complete records. Returns whether the peer closed its
    /// direction.
    fn open(&mut self, buffer: &mut Vec<u8>, cut: usize) -> Result<bool, Violation> {
        let rest = self.to_us.split_off(cut.min(self.to_us.len()));
        buffer.append(&mut self.to_us);
        self.to_us = rest;
        while let Some(Opened { len, content }) = self.opener.open(buffer)? {
            match content {
                Content::Data(range) => self.opened.extend_from_slice(&buffer[range]),
                Content::Nothing => {}
                Content::KeyUpdateRequested => self.sealer.update_key(),
                Content::Closed => return Ok(true),
            }
            buffer.drain(..len);
        }
        Ok(false)
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Send(usize, usize),
    Receive(usize),
    TheirUpdate,
    OurUpdate,
    Hibernate,
    Open(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (1..3000_usize, 1..5000_usize).prop_map(|(len, cut)| Operation::Send(len, cut)),
        1 => (1..70_000_usize, 1..70_000_usize).prop_map(|(len, cut)| Operation::Send(len, cut)),
        4 => (1..3000_usize).prop_map(Operation::Receive),
        1 => (1..40_000_usize).prop_map(Operation::Receive),
        2 => Just(Operation::TheirUpdate),
        2 => Just(Operation::OurUpdate),
        2 => Just(Operation::Hibernate),
        4 => (1..100_usize).prop_map(Operation::Open),
        2 => (1..40_000_usize).prop_map(Operation::Open),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_sequence_of_operations_interoperates_with_rustls(
        suite in select(&Suite::ALL[..]),
        ours in select(&[Role::Client, Role::Server][..]),
        operations in vec(operation(), 0..31),
    ) {
        let mut pair = Pair::new(suite, ours);
        let (mut buffer, mut sent, mut received) = (Vec::new(), Vec::new(), Vec::new());
        for (number, operation) in operations.into_iter().enumerate() {
            let fill = u8::try_from(number).unwrap();
            match operation {
                Operation::Send(len, cut) => {
                    pair.send(&vec![fill; len], cut);
                    sent.resize(sent.len() + len, fill);
                    prop_assert_eq!(&pair.got, &sent);
                }
                Operation::Receive(len) => {
                    pair.receive(&vec![fill; len]);
                    received.resize(received.len() + len, fill);
                }
                Operation::TheirUpdate => {
                    pair.rustls.refresh_traffic_keys().unwrap();
                    pair.receive(&[]);
                }
                Operation::OurUpdate => pair.sealer.update_key(),
                Operation::Hibernate => {
                    pair.sealer.hibernate();
                    pair.opener.hibernate();
                }
                Operation::Open(cut) => prop_assert_eq!(pair.open(&mut buffer, cut), Ok(false)),
            }
        }
        pair.send(b"last", 1);
        pair.rustls.send_close_notify();
        pair.receive(&[]);
        prop_assert_eq!(pair.open(&mut buffer, usize::MAX), Ok(true));
        prop_assert_eq!(pair.opened, received);
        prop_assert_eq!(pair.got, [&sent[..], b"last"].concat());
    }

    /// A modified record ends the connection at our end, and our alert ends it at rustls.
    #[test]
    fn a_modified_record_ends_both(suite in select(&Suite::ALL[..]), len in 1..100_usize, at: usize, bit in 0..8_u32) {
        let mut pair = Pair::new(suite, Role::Server);
        pair.receive(&vec![1; len]);
        let at = at % pair.to_us.len();
        pair.to_us[at] ^= 1 << bit;
        // With a larger length in the header our end would wait for more bytes.
        pair.to_us.resize(pair.to_us.len() + (1 << 17), 0);
        let violation = pair.open(&mut Vec::new(), usize::MAX).unwrap_err();
        prop_assert!(pair.opened.is_empty());
        let mut alert = [0; 128];
        let written = pair.sealer.alert(violation.alert().unwrap(), &mut alert).unwrap();
        pair.rustls.read_tls(&mut &alert[..written]).unwrap();
        let error = pair.rustls.process_new_packets().unwrap_err();
        prop_assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error:?}");
    }
}

#[test]
fn rustls_accepts_our_close_notify_and_can_still_send() {
    for suite in Suite::ALL {
        for ours in [Role::Client, Role::Server] {
            let mut pair = Pair::new(suite, ours);
            let mut out = [0; 128];
            let written = pair.sealer.alert(Alert::CloseNotify, &mut out).unwrap();
            pair.rustls.read_tls(&mut &out[..written]).unwrap();
            assert!(pair.rustls.process_new_packets().unwrap().peer_has_closed());
            // Only one direction is closed.
            pair.receive(b"still");
            assert_eq!(pair.open(&mut Vec::new(), usize::MAX), Ok(false));
            assert_eq!(pair.opened, b"still");
        }
    }
}

#[test]
fn key_updates_of_rustls_are_limited_in_a_row() {
    // rustls itself accepts as many requested updates in a row.
    let mut pair = Pair::new(Suite::Aes128Gcm, Role::Server);
    let mut buffer = Vec::new();
    for _update in 0..tollgate::record::IDLE_RECORDS_MAX {
        pair.rustls.refresh_traffic_keys().unwrap();
        pair.receive(&[]);
        assert_eq!(pair.open(&mut buffer, usize::MAX), Ok(false));
    }
    // One `KeyUpdate` answers all of them.
    pair.send(b"answer", 7);
    assert_eq!(pair.got, b"answer");
    pair.rustls.refresh_traffic_keys().unwrap();
    pair.receive(&[]);
    assert_eq!(pair.open(&mut buffer, usize::MAX), Err(Violation::TooManyIdle));
}
