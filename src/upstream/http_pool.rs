//! The unused connections of one worker for ordinary requests.
//!
//! hyper-util's pools connect by themselves. Here the balancer has chosen the server before, a failed attempt to connect
//! is a fact about that server, and no task serves an unused connection.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::http_connection::HttpConnection;
use crate::balance::Pool;
use crate::runtime::clock;

/// The maximum number of unused connections of a worker, to all servers.
pub const IDLE_MAX: usize = 128;
/// How long a connection stays unused. It is shorter than the 5 s after which common servers close one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// The time between two passes that close old connections.
const SWEEP: Duration = Duration::from_secs(1);

/// The unused connections of one worker. They must be used by its runtime only.
#[derive(Default)]
pub struct HttpPool {
    idle: Mutex<Idle>,
    is_used: Notify,
}

#[derive(Default)]
struct Idle {
    by_upstream: HashMap<Arc<str>, OfUpstream>,
    count: usize,
}

/// The connections to the servers of an upstream, by the name of the server, the last used one last.
struct OfUpstream {
    /// The pool that they were opened for. Another one may have other settings.
    pool: Arc<Pool>,
    by_server: HashMap<Arc<str>, Vec<(HttpConnection, Instant)>>,
}

impl HttpPool {
    /// Returns a connection to a server of a pool that was used before and is still open.
    pub fn take(&self, pool: &Arc<Pool>, server: &str) -> Option<HttpConnection> {
        let now = clock::now();
        let mut idle = self.lock();
        let Idle { by_upstream, count } = &mut *idle;
        let of_upstream = by_upstream.get_mut(&pool.config().name)?;
        if !Arc::ptr_eq(&of_upstream.pool, pool) {
            return None;
        }
        let connections = of_upstream.by_server.get_mut(server)?;
        while let Some((mut connection, since)) = connections.pop() {
            *count -= 1;
            if is_fresh(since, now) && connection.is_unspoiled() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection to a server of a pool, if it can carry another request and there is room.
    pub fn put(&self, pool: &Arc<Pool>, server: &Arc<str>, mut connection: HttpConnection) {
        if !connection.is_idle() {
            return;
        }
        let now = clock::now();
        let mut idle = self.lock();
        if idle.count >= IDLE_MAX {
            return;
        }
        let Idle { by_upstream, count } = &mut *idle;
        let new = || OfUpstream { pool: Arc::clone(pool), by_server: HashMap::new() };
        let of_upstream = by_upstream.entry(Arc::clone(&pool.config().name)).or_insert_with(new);
        if !Arc::ptr_eq(&of_upstream.pool, pool) {
            if pool.replacement().is_some() {
                // The request began before a reload.
                return;
            }
            *count -= of_upstream.by_server.values().map(Vec::len).sum::<usize>();
            *of_upstream = new();
        }
        if *count == 0 {
            self.is_used.notify_one();
        }
        *count += 1;
        of_upstream.by_server.entry(Arc::clone(server)).or_default().push((connection, now));
    }

    /// Closes connections that are unused for too long. Never returns.
    pub async fn run(&self) {
        loop {
            self.is_used.notified().await;
            while !self.sweep(clock::now()) {
                sleep(SWEEP).await;
            }
        }
    }

    /// Returns whether none is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.lock();
        let Idle { by_upstream, count } = &mut *idle;
        by_upstream.retain(|_, of_upstream| {
            of_upstream.by_server.retain(|_, connections| {
                connections.retain(|(_, since)| is_fresh(*since, now));
                !connections.is_empty()
            });
            !of_upstream.by_server.is_empty()
        });
        *count = by_upstream.values().flat_map(|of_upstream| of_upstream.by_server.values()).map(Vec::len).sum();
        *count == 0
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < IDLE_TIMEOUT
}

impl fmt::Debug for HttpPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPool").field("idle", &self.lock().count).finish_non_exhaustive()
    }
}
