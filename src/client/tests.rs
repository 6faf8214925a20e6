//! Parts of the tests of this module: a runtime, a server with prepared answers, and key sets.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt as _};
use tokio::net::TcpListener;

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Reads the head of a request.
pub(super) async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

pub(super) fn response(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Answers one request on each connection by its path, until the client has its result.
pub(super) async fn serve<T>(
    listener: TcpListener,
    answer: impl Fn(&str) -> Vec<u8>,
    client: impl Future<Output = T>,
) -> T {
    let serving = async {
        loop {
            let mut stream = listener.accept().await.unwrap().0;
            let head = read_head(&mut stream).await;
            let path = head.split(' ').nth(1).unwrap();
            let answer = String::from_utf8(answer(path)).unwrap();
            let answer = answer.replacen("\r\n", "\r\nConnection: close\r\n", 1);
            // The client may close the connection before it has read everything.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    };
    tokio::select! {
        result = client => result,
        () = serving => unreachable!("it serves forever"),
    }
}

/// Returns a JWK set of Ed25519 keys with these names. A name always has the same key.
pub(super) fn jwks(names: &[&str]) -> String {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let keys = names.iter().map(|name| {
        let mut seed = [0; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{name}","x":"{x}"}}"#)
    });
    format!(r#"{{"keys":[{}]}}"#, keys.collect::<Vec<_>>().join(","))
}
