//! The end of a connection after its last response.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::runtime::cycle;
use crate::runtime::pending_limit::ClosingPermit;
use crate::tls::stream::ClientStream;

/// The time for which a connection stays open after its last response, and the number of bytes that the client may
/// still send meanwhile. Closing a socket with unread bytes resets the connection, which may discard the response.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX_BYTES: usize = 256 * 1024;

/// Lets a client read its response before the connection closes. Without a permit the connection closes at once, and a
/// client that sent more than its request may see a reset instead.
pub(super) async fn linger(mut stream: ClientStream, closing: Option<ClosingPermit>) {
    let has_permit = closing.is_some();
    let mut reading = pin!(async {
        stream.shutdown().await?;
        let (mut ignored, mut total) = ([0; 1024], 0);
        while total < LINGER_MAX_BYTES {
            match stream.read(&mut ignored).await? {
                0 => break,
                // A read of a single byte may have cost several key updates.
                n => total += n.max(ignored.len()),
            }
            cycle::next().await;
        }
        io::Result::Ok(())
    });
    // An error has no consequence: the response was written.
    if has_permit {
        let _ = timeout(LINGER, reading).await;
    } else {
        poll_fn(|cx| {
            let _ = reading.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    }
}
