//! Accepts the connections of a listener on one worker at a time, the least loaded one.
//!
//! A listener belongs to one worker, which accepts its connections and serves them. Once another worker has
//! sufficiently fewer connections, the listener moves there together with the connection accepted last. So only one
//! worker wakes for each connection. With many connections most are served by the worker that accepted them; with few,
//! the listener moves for every second one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::pool::WorkerHandle;
use super::socket::{Accepted, Accepting, Listener};
use super::worker::WorkerContext;
use crate::front::connection_config::ConnectionConfig;
use crate::policy::peer::Peer;
use crate::runtime::clock;
use crate::runtime::cycle;
use crate::runtime::socket::{DetachedSocket, SocketStream};
use crate::runtime::tasks::Tasks;

/// Connections accepted in a row before the worker's sessions run.
const IN_A_ROW: usize = 16;
/// The first and the longest pause after an error of the system, such as a lack of descriptors.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves the listeners that this worker receives. Once the drain has started, waits for the open connections to end
/// and then signals `end`. Its listeners accept until the process is aborted, so that new connections get a 503 while
/// any worker drains.
pub async fn run(context: WorkerContext, mut listeners: mpsc::Receiver<Listener>, end: oneshot::Sender<()>) {
    let accepting = Tasks::default();
    loop {
        tokio::select! {
            biased;
            () = context.gateway().process.lifecycle.draining() => break,
            Some(listener) = listeners.recv() => accepting.start(serve(listener, context.clone())),
        }
    }
    listeners.close();
    while let Some(listener) = listeners.recv().await {
        accepting.start(serve(listener, context.clone()));
    }
    context.tasks().end().await;
    // If the receiver was dropped, no task waits for the signal.
    let _ = end.send(());
    context.gateway().process.lifecycle.aborted().await;
}

/// Accepts on this worker until the listener moves to another one, or is closed. Once the drain has started the
/// listener stays, and the drain does not wait for the connections that it accepts.
async fn serve(mut listener: Listener, mut worker: WorkerContext) {
    loop {
        match listener.accepted.take().map(|accepted| accepted.try_map(DetachedSocket::attach)) {
            Some(Ok(accepted)) => worker.spawn_connection(accepted),
            Some(Err(error)) => tracing::error!(%error, "cannot register a connection with the event loop"),
            None => {}
        }
        let moved = tokio::select! {
            biased;
            () = worker.gateway().process.lifecycle.draining(), if !worker.is_draining() => {
                worker = worker.draining();
                continue;
            }
            moved = accept_all(&listener, &worker) => moved,
        };
        let Some((next, accepted)) = moved else { return };
        listener.accepted = Some(accepted);
        match next.send(listener) {
            Ok(()) => return,
            // That worker accepts no more listeners, so this one keeps it.
            Err(back) => listener = back,
        }
    }
}

/// Accepts for this worker until a connection is to move to another one, or the listener is closed (`None`). While no
/// permit is free only one more connection is accepted, which waits for the next permit; the others stay in the
/// kernel's queue. So a listener without clients holds no permit that others could use.
async fn accept_all<'a>(
    listener: &Listener,
    worker: &'a WorkerContext,
) -> Option<(&'a WorkerHandle, Accepted<DetachedSocket>)> {
    let (mut pause, mut in_a_row, mut watched) = (PAUSE_MIN, 0, None);
    loop {
        let accepted = tokio::select! {
            biased;
            () = listener.stop.cancelled() => return None,
            accepted = accept(listener, &mut watched) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = PAUSE_MIN;
                // A connection that was accepted is served even if the listener is closed meanwhile, but not if the
                // configuration was replaced before.
                let config = worker.gateway().snapshot().connections(&listener.address).cloned();
                let Some(config) = config else { continue };
                match (with_permit((stream, peer), config, worker).await, worker.less_loaded_peer()) {
                    (None, _) => {}
                    (Some(accepted), None) => worker.spawn_connection(accepted),
                    (Some(accepted), Some(other)) => match accepted.try_map(SocketStream::detach) {
                        Ok(accepted) => return Some((other, accepted)),
                        Err(error) => tracing::error!(%error, "cannot move a connection to another worker"),
                    },
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, pause_ms = pause.as_millis(), "cannot accept");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        in_a_row = (in_a_row + 1) % IN_A_ROW;
        if in_a_row == 0 {
            cycle::next().await;
        }
    }
}

/// Accepts one connection. `watched` keeps the listener registered with the event loop from the first call on.
async fn accept(listener: &Listener, watched: &mut Option<Accepting>) -> io::Result<(SocketStream, Peer)> {
    let watched = match watched {
        Some(watched) => watched,
        // A clone is registered, so that the listener is not lost if that fails.
        None => watched.insert(listener.socket.register()?),
    };
    watched.accept().await
}

/// Waits for the permit of a connection, unless the share of its address is exhausted. The client of a connection with
/// a PROXY header is counted later. Returns `None` for a connection that was closed because the queue is full.
async fn with_permit(
    (stream, peer): (SocketStream, Peer),
    config: Arc<ConnectionConfig>,
    worker: &WorkerContext,
) -> Option<Accepted<SocketStream>> {
    let gateway = worker.gateway();
    let slot = if config.proxy_protocol_from.contains(peer) {
        gateway.pending_limit.acquire_unidentified().await
    } else {
        gateway.pending_limit.acquire(config.counted(peer)).await
    };
    if slot.is_none() {
        let identities = gateway.process.sessions.identities();
        gateway.rejections.log_connection_closed(peer.address(), identities, clock::now());
    }
    slot.map(|slot| Accepted { stream, peer, config, slot })
}

/// Whether the error concerns only one connection, as of a client that disconnected before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | NotConnected)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// An error of the listening socket or the system would recur at once, so accepting pauses (accept(2)).
    #[test]
    fn only_errors_of_one_connection_do_not_pause_accepting() {
        for errno in [Errno::CONNABORTED, Errno::CONNRESET, Errno::INTR] {
            assert!(is_of_one_connection(&errno.into()), "{errno}");
        }
        for errno in
            [Errno::INVAL, Errno::BADF, Errno::NOTSOCK, Errno::OPNOTSUPP, Errno::MFILE, Errno::NFILE, Errno::NOBUFS]
        {
            assert!(!is_of_one_connection(&errno.into()), "{errno}");
        }
    }
}
