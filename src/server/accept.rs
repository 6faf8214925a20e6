//! Accepts connections, on one worker at a time: on the one that has the fewest.
//!
//! A listener is at a worker, which accepts what comes and carries it. Once another worker has fewer connections the
//! listener moves there, and what was accepted last goes with it. So no more than one worker wakes for a connection, and
//! where there are many most are accepted where they stay. Where there are few, listeners move for every other one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::socket::{Accepted, Listener};
use super::worker::{WorkerContext, WorkerHandle};
use crate::runtime::clock;
use crate::runtime::cycle;
use crate::runtime::tasks::Tasks;

/// How many are accepted in a row before the worker's sessions get their turn.
const IN_A_ROW: usize = 16;
/// The first and the longest pause when the system has no room for another connection.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves the listeners that come. Once the drain has started it waits for the connections that are left and says so on
/// `end`; its listeners go on until the process is cut off, so that newcomers get a 503 for as long as any worker drains.
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
    // A receiver that is gone waits no more.
    let _ = end.send(());
    context.gateway().process.lifecycle.aborted().await;
}

/// Accepts at this worker, or until the listener moves on. Once the drain has started the listener stays, and what it accepts
/// is not waited for.
async fn serve(mut listener: Listener, mut worker: WorkerContext) {
    loop {
        match listener.accepted.take().map(|accepted| accepted.try_map(TcpStream::from_std)) {
            Some(Ok(accepted)) => worker.spawn_connection(accepted, Arc::clone(&listener.config)),
            Some(Err(error)) => tracing::error!(%error, "a connection could not be watched"),
            None => {}
        }
        let (next, accepted) = tokio::select! {
            biased;
            () = worker.gateway().process.lifecycle.draining(), if !worker.is_draining() => {
                worker = worker.draining();
                continue;
            }
            moves = accept_all(&listener, &worker) => moves,
        };
        listener.accepted = Some(accepted);
        match next.send(listener) {
            Ok(()) => return,
            // It has ended, so what comes stays here.
            Err(back) => listener = back,
        }
    }
}

/// Accepts for this worker until a connection comes that is for another. While every place is taken only one more is
/// accepted, which waits for the first that gets free: the others wait in the kernel's queue. So listeners that nobody
/// comes to keep no place from the others.
async fn accept_all<'a>(
    listener: &Listener,
    worker: &'a WorkerContext,
) -> (&'a WorkerHandle, Accepted<std::net::TcpStream>) {
    let (mut pause, mut in_a_row, mut watched) = (PAUSE_MIN, 0, None);
    loop {
        match accept(listener, worker, &mut watched).await {
            Ok(accepted) => {
                pause = PAUSE_MIN;
                match (accepted, worker.less_loaded_peer()) {
                    (None, _) => {}
                    (Some(accepted), None) => worker.spawn_connection(accepted, Arc::clone(&listener.config)),
                    (Some(accepted), Some(other)) => match accepted.try_map(TcpStream::into_std) {
                        Ok(accepted) => return (other, accepted),
                        Err(error) => tracing::error!(%error, "a connection could not be moved"),
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

/// Accepts one connection and waits for a place for it, unless its address has its share of them. The socket is watched
/// from the first call on, for as long as `watched` lives.
async fn accept(
    listener: &Listener,
    worker: &WorkerContext,
    watched: &mut Option<TcpListener>,
) -> io::Result<Option<Accepted<TcpStream>>> {
    let watched = match watched {
        Some(watched) => watched,
        // Of a clone, so that the listener is not lost should the system have no room to watch it.
        None => watched.insert(TcpListener::from_std(listener.socket.try_clone()?)?),
    };
    let (stream, address) = watched.accept().await?;
    let client = address.ip();
    let slot = listener.pending_limit.acquire(client).await;
    if slot.is_none() {
        let gateway = worker.gateway();
        gateway.rejections.log_connection_closed(client, gateway.process.sessions.identities(), clock::now());
    }
    Ok(slot.map(|slot| Accepted { stream, client, slot }))
}

/// A client that left before it was accepted says nothing about the next one.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | NotConnected)
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    /// An error of the socket itself comes again at once, so that accepting pauses (accept(2)).
    #[test]
    fn errors_of_one_connection_are_passed_over_and_others_are_not() {
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
