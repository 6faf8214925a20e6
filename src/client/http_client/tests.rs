use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::tests::{block_on, read_head, response};
use super::*;

const LIMITS: RequestLimits = RequestLimits { timeout: Duration::from_secs(10), body_max_bytes: 1000 };
const SHORT: RequestLimits = RequestLimits { timeout: Duration::from_millis(50), body_max_bytes: 1000 };

fn url(text: &str) -> HttpUrl {
    HttpUrl::parse(text).unwrap()
}

/// Answers one request of a client without TLS with these bytes, and keeps the connection open. Returns the head of the
/// request, and the client's result.
fn exchange(answer: Vec<u8>, limits: RequestLimits) -> (String, Result<Response<Bytes>, ClientError>) {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url(&format!("http://{}/keys?tenant=1", listener.local_addr().unwrap()));
        let client = HttpClient::new(&Roots::Certificates(Vec::new().into()), 1);
        let serving = async {
            let mut stream: TcpStream = listener.accept().await.unwrap().0;
            let head = read_head(&mut stream).await;
            // The client may close the connection before it has read everything.
            let _ = stream.write_all(&answer).await;
            (head, stream)
        };
        let ((head, _stream), result) = tokio::join!(serving, client.get(&url, limits));
        (head, result)
    })
}

#[test]
fn the_whole_response_is_returned() {
    let (head, result) = exchange(response("200 OK\r\nCache-Control: max-age=60", "{}"), LIMITS);
    let result = result.unwrap();
    assert_eq!((result.status().as_u16(), result.body().as_ref()), (200, b"{}".as_slice()));
    assert_eq!(result.headers()["cache-control"], "max-age=60");
    assert!(head.starts_with("GET /keys?tenant=1 HTTP/1.1\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("\r\nhost: 127.0.0.1:") && head.contains("\r\naccept: application/json\r\n"), "{head}");
}

#[test]
fn a_redirect_is_a_response_and_is_not_followed() {
    let (_, result) = exchange(response("302 Found\r\nLocation: http://127.0.0.1:1/", ""), LIMITS);
    assert_eq!(result.unwrap().status().as_u16(), 302);
}

#[test]
fn a_body_beyond_the_limit_is_an_error() {
    assert!(exchange(response("200 OK", &"x".repeat(1000)), LIMITS).1.is_ok());
    let too_large = Err(ClientError::TooLarge(1000));
    let body_of = |answer| exchange(answer, LIMITS).1.map(Response::into_body);
    assert_eq!(body_of(response("200 OK", &"x".repeat(1001))), too_large);
    let mut endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    endless.extend_from_slice("100\r\n".as_bytes());
    endless.extend_from_slice(&[b'x'; 256]);
    endless.extend_from_slice("\r\n400\r\n".as_bytes());
    endless.extend_from_slice(&[b'x'; 1024]);
    assert_eq!(body_of(endless), too_large);
}

#[test]
fn a_response_that_is_late_or_incomplete_is_a_timeout() {
    let late = Err(ClientError::Timeout(SHORT.timeout));
    let body_of = |answer| exchange(answer, SHORT).1.map(Response::into_body);
    assert_eq!(body_of(Vec::new()), late);
    assert_eq!(body_of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab".to_vec()), late);
}

#[test]
fn a_response_that_is_not_http_is_an_error() {
    for answer in
        [b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), response(&format!("200 OK\r\nA: {}", "x".repeat(400_000)), "")]
    {
        let (_, result) = exchange(answer, LIMITS);
        let result = result.map(|response| response.status());
        assert!(matches!(result, Err(ClientError::Broken(_))), "{result:?}");
    }
}

#[test]
fn a_refused_connection_is_an_error_with_its_cause() {
    let result = block_on(async {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let client = HttpClient::new(&Roots::Certificates(Vec::new().into()), 1);
        client.get(&url(&format!("http://127.0.0.1:{port}/")), LIMITS).await
    });
    let Err(ClientError::Connect(cause)) = result else { panic!("{result:?}") };
    assert!(cause.contains("refused"), "{cause}");
}

/// Reads a request on a connection and answers it.
async fn reply(stream: &mut TcpStream, answer: &[u8]) {
    read_head(stream).await;
    stream.write_all(answer).await.unwrap();
}

/// A server that closes its connections at the moment at which they are used again.
#[test]
fn a_request_is_sent_again_if_a_reused_connection_breaks() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url(&format!("http://{}/", listener.local_addr().unwrap()));
        let client = HttpClient::new(&Roots::System, 2);
        let ok = response("200 OK", "");
        let serving = async {
            // Two connections are kept, and each of them breaks.
            let (mut first, mut second) = (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
            tokio::join!(reply(&mut first, &ok), reply(&mut second, &ok));
            let broken = tokio::select! {
                _ = read_head(&mut first) => { drop(first); second }
                _ = read_head(&mut second) => { drop(second); first }
            };
            let mut third = listener.accept().await.unwrap().0;
            reply(&mut third, &ok).await;
            (broken, third)
        };
        let asking = async {
            let (first, second) = tokio::join!(client.get(&url, LIMITS), client.get(&url, LIMITS));
            assert!(first.is_ok() && second.is_ok());
            client.get(&url, LIMITS).await
        };
        assert_eq!(tokio::join!(serving, asking).1.unwrap().status().as_u16(), 200);
    });
}

#[test]
fn a_request_is_not_sent_again_if_a_new_connection_breaks_or_the_response_is_malformed() {
    const MALFORMED: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"];
    let serve = |answers: &'static [&'static [u8]]| {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = url(&format!("http://{}/", listener.local_addr().unwrap()));
            let client = HttpClient::new(&Roots::System, 1);
            let serving = async {
                let mut stream = listener.accept().await.unwrap().0;
                for answer in answers {
                    reply(&mut stream, answer).await;
                }
                drop(stream);
                listener.accept().await.map(drop)
            };
            let asking = async {
                for _ in 1..answers.len() {
                    client.get(&url, LIMITS).await.unwrap();
                }
                client.get(&url, LIMITS).await.map(drop)
            };
            tokio::select! {
                _ = serving => panic!("the request was sent again"),
                result = asking => result,
            }
        })
    };
    assert!(matches!(serve(&[b""]), Err(ClientError::Broken(_))));
    assert!(matches!(serve(MALFORMED), Err(ClientError::Broken(_))));
}

#[test]
fn a_head_is_returned_before_its_body_and_a_short_body_keeps_the_connection() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = HttpClient::new(&Roots::System, 1);
        let request = || {
            let mut request = Request::new(());
            *request.uri_mut() = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
            request
        };
        let (mut stream, response) = tokio::join!(
            async {
                let mut stream = listener.accept().await.unwrap().0;
                reply(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await;
                stream
            },
            client.head(request(), LIMITS.timeout)
        );
        client.drain(response.unwrap().into_body());
        stream.write_all(b"abc").await.unwrap();
        // The connection can be used again when the task has read the body.
        while Arc::strong_count(&client.0.drains) > 1 {
            tokio::task::yield_now().await;
        }
        let answer = super::super::tests::response("204 No Content", "");
        let again = tokio::join!(reply(&mut stream, &answer), async {
            client.head(request(), LIMITS.timeout).await.unwrap().status()
        });
        assert_eq!(again.1.as_u16(), 204);
    });
}

#[test]
fn only_https_needs_roots() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = HttpClient::new(&Roots::Certificates(vec![CertificateDer::from(vec![0])].into()), 1);
        let serving = async { reply(&mut listener.accept().await.unwrap().0, &response("200 OK", "")).await };
        let plain = url(&format!("http://{address}/"));
        assert!(tokio::join!(serving, client.get(&plain, LIMITS)).1.is_ok());
        let tls = client.get(&url(&format!("https://{address}/")), LIMITS).await;
        assert!(matches!(tls, Err(ClientError::Roots(_))), "{tls:?}");
    });
}

/// Asks a TLS server whose certificate has this name, with these roots.
fn exchange_tls(name: &str, is_trusted: bool) -> Result<Response<Bytes>, ClientError> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let other = KeyPair::generate().unwrap();
    let other = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&other).unwrap();
    let root: CertificateDer<'static> = if is_trusted { certificate.der().clone() } else { other.der().clone() };
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url(&format!("https://localhost:{}/keys", listener.local_addr().unwrap().port()));
        let client = HttpClient::new(&Roots::Certificates(vec![root].into()), 1);
        let serving = async {
            let stream = listener.accept().await.unwrap().0;
            // The handshake fails if the client does not trust the certificate.
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
            read_head(&mut stream).await;
            stream.write_all(&response("200 OK", "{}")).await.unwrap();
            Some(stream)
        };
        tokio::join!(serving, client.get(&url, LIMITS)).1
    })
}

#[test]
fn the_certificate_must_lead_to_the_roots_and_have_the_name() {
    assert_eq!(exchange_tls("localhost", true).unwrap().body().as_ref(), b"{}");
    for (name, is_trusted) in [("localhost", false), ("id.example.com", true)] {
        let result = exchange_tls(name, is_trusted);
        let Err(ClientError::Connect(cause)) = result else { panic!("{result:?}") };
        assert!(cause.contains("certificate"), "{cause}");
    }
}

#[test]
fn the_causes_of_an_error_are_shown_once() {
    let inner = std::io::Error::other("connection refused");
    assert_eq!(causes(&inner), "connection refused");
    let outer = ClientError::Connect("tcp: connection refused".to_owned());
    assert_eq!(outer.to_string(), "cannot connect: tcp: connection refused");
}
