//! Workers: one thread a core, each with a runtime of its own, on which a connection lives from its accept to its end.

use std::future::Future;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::connection::{self, Door};
use super::handshakes::Permit;
use super::timers::{Timer, Timers};
use super::turns;
use super::upgrade::Gateway;

/// How many accepted connections may wait for a worker to take them.
const QUEUE: usize = 256;
/// How many names of servers a worker may look up at once; further connections wait for that within `connect_timeout`.
const LOOKUPS: usize = 8;

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Arrival {
    /// Its socket, which belongs to no runtime yet.
    pub stream: TcpStream,
    /// Where it comes from.
    pub client: IpAddr,
    /// The listener that accepted it.
    pub door: Arc<Door>,
    /// Its place among those that are no sessions yet; given back when it becomes one, or ends.
    pub permit: Permit,
}

/// A thread that carries connections.
#[derive(Debug)]
pub struct Worker {
    arrivals: mpsc::Sender<Arrival>,
    connections: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn start(number: usize, gateway: Arc<Gateway>) -> io::Result<Self> {
        // Beside its own thread a runtime has some that block, on which names of servers are looked up: by default up to
        // 512, which a resolver that does not answer would fill.
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUPS).build()?;
        let (arrivals, queue) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        start_thread(&format!("worker-{number}"), runtime, async move {
            let timers = Arc::new(Timers::new());
            let lifecycle = Arc::clone(&gateway);
            tokio::select! {
                () = carry(gateway, queue, count, Arc::clone(&timers)) => {}
                () = timers.run(&lifecycle.lifecycle) => {}
                () = turns::keep() => {}
            }
            // Whoever waits for it may have given up.
            let _ = end.send(());
        })?;
        Ok(Self { arrivals, connections, ended })
    }

    /// How many connections it carries.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Hands it a connection.
    pub async fn take(&self, arrival: Arrival) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.arrivals.send(arrival).await.is_err() {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Lets it end once its connections have, and waits for that.
    pub async fn end(self) {
        drop(self.arrivals);
        // An error means that the thread is gone, which is what is waited for.
        let _ = self.ended.await;
    }
}

/// Starts a thread that runs a future to its end: the one place that makes threads.
///
/// # Errors
/// If the system gives no thread.
pub fn start_thread(name: &str, runtime: Runtime, future: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(future))?;
    Ok(())
}

/// Tasks that are waited for: the one place that spawns, so that none escapes the drain.
#[derive(Debug, Default, Clone)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Starts a task on this thread's runtime. A panic in it ends it alone.
    pub fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    /// Waits until all tasks have ended.
    pub async fn end(self) {
        self.0.close();
        self.0.wait().await;
    }
}

async fn carry(
    gateway: Arc<Gateway>,
    mut queue: mpsc::Receiver<Arrival>,
    connections: Arc<AtomicUsize>,
    timers: Arc<Timers>,
) {
    let tasks = Tasks::default();
    while let Some(arrival) = queue.recv().await {
        let seat = Seat::new(&timers, &connections);
        let gateway = Arc::clone(&gateway);
        let sessions = tasks.clone();
        tasks.start(async move {
            let Arrival { stream, client, door, permit } = arrival;
            let place = Place { _permit: permit, seat };
            let stream = match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => stream,
                Err(error) => return tracing::error!(%error, "a connection could not be watched"),
            };
            // A session is a task of its own: in this one it would keep the room that its handshakes needed.
            let steps = Box::pin(connection::serve(&gateway, &door, stream, client, place));
            if let Some(relay) = turns::in_turn(steps).await {
                sessions.start(relay);
            }
        });
    }
    tasks.end().await;
}

/// A connection's place among those that are no sessions yet, until dropped, and its seat.
#[derive(Debug)]
pub struct Place {
    _permit: Permit,
    seat: Seat,
}

impl Place {
    /// What is left of it for a connection that is a session from now on.
    pub fn admitted(self) -> Seat {
        self.seat
    }
}

/// A connection's place among those of its worker, until dropped, and its timer there.
#[derive(Debug)]
pub struct Seat {
    /// Wakes its session.
    pub timer: Timer,
    _counted: Counted,
}

impl Seat {
    /// A seat at the worker that has these timers, and whose connections are counted here: they are one more already.
    pub fn new(timers: &Arc<Timers>, connections: &Arc<AtomicUsize>) -> Self {
        Self { timer: Timer::new(Arc::clone(timers)), _counted: Counted(Arc::clone(connections)) }
    }
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
