//! Tests of `ClientStream` over loopback: the handshake that leaves rustls, and the stream after it.

use std::future::poll_fn;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedCipherSuite};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tollgate::config::{Certificate, ListenerTls, RecordLayer, TlsMinVersion};
use tollgate::tls::config::server_config;
use tollgate::tls::stream::ClientStream;

use super::differential::certificate;

const SUITES: [SupportedCipherSuite; 4] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    // TLS 1.2 stays with rustls.
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
];
const LAYERS: [RecordLayer; 2] = [RecordLayer::Own, RecordLayer::Rustls];

/// The time after which a test counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

fn server(layer: RecordLayer) -> Arc<rustls::ServerConfig> {
    let (chain, key) = certificate();
    let key = aws_lc_rs::sign::any_supported_type(key).unwrap();
    let key = Arc::new(CertifiedKey::new(vec![chain.clone()], key));
    let (not_before, not_after) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
    let certificate = Certificate { names: vec!["localhost".to_owned()], key, not_before, not_after };
    server_config(
        &ListenerTls { certificates: vec![certificate], acme: None, min_version: TlsMinVersion::Tls12 },
        None,
        layer,
        tollgate::tls::config::ticketer(None).unwrap(),
    )
    .unwrap()
}

fn client(suites: &[SupportedCipherSuite]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate().0.clone()).unwrap();
    let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..default_provider() };
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// A rustls client on a blocking socket, so that tests control which bytes are sent when.
struct Client {
    tls: ClientConnection,
    socket: std::net::TcpStream,
}

impl Client {
    fn connect(config: &Arc<ClientConfig>, address: SocketAddr) -> Self {
        let socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        tls.set_buffer_limit(None);
        Self { tls, socket }
    }

    /// Returns the pending output of rustls.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Runs the handshake up to the server's last message. Returns the client's last messages, with `plaintext` behind
    /// them.
    fn handshake(&mut self, plaintext: &[u8]) -> Vec<u8> {
        while self.tls.is_handshaking() {
            let bytes = self.outgoing();
            self.socket.write_all(&bytes).unwrap();
            self.tls.read_tls(&mut self.socket).unwrap();
            self.tls.process_new_packets().unwrap();
        }
        self.tls.writer().write_all(plaintext).unwrap();
        self.outgoing()
    }

    fn send(&mut self, plaintext: &[u8]) {
        self.tls.writer().write_all(plaintext).unwrap();
        let bytes = self.outgoing();
        self.socket.write_all(&bytes).unwrap();
    }

    /// Reads at least `len` bytes, or to the end of the stream.
    fn receive(&mut self, len: usize) -> Result<Vec<u8>, rustls::Error> {
        let mut plaintext = Vec::new();
        while plaintext.len() < len {
            let received = self.tls.read_tls(&mut self.socket).unwrap();
            self.tls.process_new_packets()?;
            let _ = self.tls.reader().read_to_end(&mut plaintext);
            if received == 0 {
                break;
            }
        }
        Ok(plaintext)
    }
}

/// Runs the server's side and the client's side. The client's side blocks, so it has its own thread.
fn run<S: Future<Output = ()>>(
    layer: RecordLayer,
    serve: impl FnOnce(ClientStream) -> S,
    drive: impl FnOnce(SocketAddr) + Send + 'static,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let driving = std::thread::spawn(move || drive(address));
        let serving = async {
            let (socket, _) = listener.accept().await.unwrap();
            serve(ClientStream::accept(&server(layer), socket.into()).await.unwrap().0).await;
        };
        tokio::time::timeout(PATIENCE, serving).await.unwrap();
        driving.join().unwrap();
    });
}

/// Echoes everything until the client sends `close_notify`, then sends one as well.
async fn echo(mut stream: ClientStream, buffer_len: usize) {
    let mut buffer = vec![0; buffer_len];
    loop {
        let n = stream.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        stream.write_all(&buffer[..n]).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

#[test]
fn echo_works_with_every_suite_layer_and_buffer_size() {
    for layer in LAYERS {
        for suite in SUITES {
            for buffer_len in [1, 512, 8192, 16_645, 65_536] {
                let lens = if buffer_len == 1 { vec![1, 300] } else { vec![1, 300, 16_384, 16_385, 100_000] };
                run(
                    layer,
                    |stream| echo(stream, buffer_len),
                    move |address| {
                        let mut client = Client::connect(&client(&[suite]), address);
                        let last = client.handshake(b"");
                        client.socket.write_all(&last).unwrap();
                        for (fill, len) in (1..).zip(lens) {
                            client.send(&vec![fill; len]);
                            assert_eq!(client.receive(len).unwrap(), vec![fill; len]);
                            if layer == RecordLayer::Own && fill % 2 == 0 && suite.tls13().is_some() {
                                client.tls.refresh_traffic_keys().unwrap();
                            }
                        }
                        client.tls.send_close_notify();
                        client.send(&[]);
                        assert_eq!(client.receive(1).unwrap(), b"");
                    },
                );
            }
        }
    }
}

#[test]
fn data_sent_with_the_finished_is_not_lost() {
    for layer in LAYERS {
        for suite in SUITES {
            for cut in [1, 7, 100_000] {
                run(
                    layer,
                    |stream| echo(stream, 8192),
                    move |address| {
                        let mut client = Client::connect(&client(&[suite]), address);
                        let bytes = client.handshake(&vec![b'x'; 20_000]);
                        // Send the first bytes one by one, so that every header arrives in parts.
                        let (first, rest) = bytes.split_at(bytes.len().min(if cut == 1 { 300 } else { bytes.len() }));
                        for piece in first.chunks(cut) {
                            client.socket.write_all(piece).unwrap();
                        }
                        client.socket.write_all(rest).unwrap();
                        assert_eq!(client.receive(20_000).unwrap(), vec![b'x'; 20_000]);
                        client.tls.send_close_notify();
                        client.send(&[]);
                    },
                );
            }
        }
    }
}

#[test]
fn handshakes_of_one_thread_may_interleave() {
    const CLIENTS: usize = 12;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let driving = std::thread::spawn(move || {
            let config = client(&SUITES[..3]);
            let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(&config, address)).collect();
            // First all hellos, then all last messages, so that all handshakes are in progress at the same time.
            for client in &mut clients {
                let bytes = client.outgoing();
                client.socket.write_all(&bytes).unwrap();
            }
            let lasts: Vec<_> = clients.iter_mut().map(|client| client.handshake(b"hello")).collect();
            for (client, last) in clients.iter_mut().zip(&lasts).rev() {
                client.socket.write_all(last).unwrap();
            }
            for client in &mut clients {
                assert_eq!(client.receive(5).unwrap(), b"hello");
                client.tls.send_close_notify();
                client.send(&[]);
            }
        });
        let config = server(RecordLayer::Own);
        let local = tokio::task::LocalSet::new();
        for _client in 0..CLIENTS {
            let (socket, _) = listener.accept().await.unwrap();
            let config = Arc::clone(&config);
            local.spawn_local(
                async move { echo(ClientStream::accept(&config, socket.into()).await.unwrap().0, 512).await },
            );
        }
        tokio::time::timeout(PATIENCE, local).await.unwrap();
        driving.join().unwrap();
    });
}

#[test]
fn the_ticket_of_a_connection_that_leaves_rustls_resumes_its_session() {
    let config = client(&SUITES[..1]);
    let layer = RecordLayer::Own;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let driving = std::thread::spawn(move || {
            for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let mut client = Client::connect(&config, address);
                let last = client.handshake(b"hello");
                client.socket.write_all(&last).unwrap();
                assert_eq!(client.receive(5).unwrap(), b"hello");
                assert_eq!(client.tls.handshake_kind(), Some(expected));
                client.tls.send_close_notify();
                client.send(&[]);
            }
        });
        let config = server(layer);
        for _connection in 0..2 {
            let (socket, _) = listener.accept().await.unwrap();
            echo(ClientStream::accept(&config, socket.into()).await.unwrap().0, 512).await;
        }
        driving.join().unwrap();
    });
}

#[test]
fn an_end_without_close_notify_is_an_error() {
    for layer in LAYERS {
        run(
            layer,
            |mut stream| async move {
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 5);
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
            },
            |address| {
                let mut client = Client::connect(&client(&SUITES[..3]), address);
                let last = client.handshake(b"hello");
                client.socket.write_all(&last).unwrap();
                client.socket.shutdown(Shutdown::Write).unwrap();
                // Closing a socket with unread tickets would reset the connection.
                while client.socket.read(&mut [0; 1024]).unwrap() > 0 {}
            },
        );
    }
}

#[test]
fn one_half_may_close_before_the_other() {
    for layer in LAYERS {
        run(
            layer,
            |mut stream| async move {
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 5);
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
                stream.write_all(b"bye").await.unwrap();
                stream.shutdown().await.unwrap();
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0);
                assert!(stream.write_all(b"more").await.is_err());
            },
            |address| {
                let mut client = Client::connect(&client(&SUITES[..3]), address);
                let mut all = client.handshake(b"hello");
                client.tls.send_close_notify();
                all.extend(client.outgoing());
                client.socket.write_all(&all).unwrap();
                assert_eq!(client.receive(4).unwrap(), b"bye");
            },
        );
    }
}

/// The cases are a record that is not authentic, one that is too long, and one that is not protected.
#[test]
fn a_violation_is_answered_with_its_alert() {
    let cases: [(Vec<u8>, rustls::AlertDescription); 3] = [
        ([&[23, 3, 3, 0, 20][..], &[0; 20]].concat(), rustls::AlertDescription::BadRecordMac),
        (vec![23, 3, 3, 0xff, 0xff], rustls::AlertDescription::RecordOverflow),
        (vec![20, 3, 3, 0, 1, 1], rustls::AlertDescription::UnexpectedMessage),
    ];
    for (bytes, alert) in cases {
        run(
            RecordLayer::Own,
            |mut stream| async move {
                // The data before the violation is delivered.
                assert_eq!(stream.read(&mut vec![0; 65_536]).await.unwrap(), 5);
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap_err().kind(), ErrorKind::InvalidData);
                assert_eq!(stream.read(&mut [0; 64]).await.unwrap_err().kind(), ErrorKind::InvalidData);
                assert!(stream.write_all(b"more").await.is_err());
            },
            move |address| {
                let mut client = Client::connect(&client(&SUITES[..3]), address);
                let mut last = client.handshake(b"hello");
                last.extend(bytes);
                client.socket.write_all(&last).unwrap();
                assert_eq!(client.receive(1).unwrap_err(), rustls::Error::AlertReceived(alert));
            },
        );
    }
}

#[test]
fn a_client_that_does_not_read_blocks_the_writer() {
    const TOTAL: usize = 64 << 20;
    let (stuck, is_stuck) = std::sync::mpsc::sync_channel(1);
    run(
        RecordLayer::Own,
        move |mut stream| async move {
            let piece: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
            let mut total = 0;
            // Write until the stream does not take more at once.
            let blocked = poll_fn(|cx| {
                while total < TOTAL {
                    match Pin::new(&mut stream).poll_write(cx, &piece[total % 256..]) {
                        Poll::Ready(n) => total += n.unwrap(),
                        Poll::Pending => return Poll::Ready(true),
                    }
                }
                Poll::Ready(false)
            })
            .await;
            assert!(blocked);
            stuck.send(()).unwrap();
            let behind = total as u64 + (total as u64).div_ceil(1 << 14) * 22 - stream.written();
            assert!(behind <= 65_536 + 4 * 22, "{behind} bytes are buffered");
            stream.write_all(b"go").await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        },
        move |address| {
            let mut client = Client::connect(&client(&SUITES[..3]), address);
            let last = client.handshake(b"");
            client.socket.write_all(&last).unwrap();
            // Read nothing until the writer is blocked.
            is_stuck.recv().unwrap();
            let all = client.receive(usize::MAX).unwrap();
            let (data, go) = all.split_at(all.len() - 2);
            assert_eq!(go, b"go");
            assert!(data.iter().copied().eq((0..=u8::MAX).cycle().take(data.len())));
            client.tls.send_close_notify();
            client.send(&[]);
        },
    );
}

#[test]
fn only_tls_1_3_leaves_rustls() {
    for layer in LAYERS {
        for suite in SUITES {
            run(
                layer,
                move |mut stream| async move {
                    let shown = format!("{stream:?}");
                    let leaves = layer == RecordLayer::Own && suite.tls13().is_some();
                    assert_eq!(shown.contains("SealedStream"), leaves);
                    // `Debug` output may end up in a log, so it must not contain the client's data.
                    assert_eq!(stream.read(&mut [0; 2]).await.unwrap(), 2);
                    assert!(!leaves || !format!("{stream:?}").contains("120, 120"));
                },
                move |address| {
                    let mut client = Client::connect(&client(&[suite]), address);
                    let last = client.handshake(b"xxxxxxxx");
                    client.socket.write_all(&last).unwrap();
                },
            );
        }
    }
}
