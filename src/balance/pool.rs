//! The pool of an upstream: its servers, the order in which requests try them, and the limit on pending requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::config::{ServerAddress, UpstreamConfig};
use super::health::Health;

/// An upstream with the state of its servers. A new snapshot keeps it if its configuration is unchanged.
#[derive(Debug)]
pub struct Pool {
    config: UpstreamConfig,
    servers: Vec<Arc<Server>>,
    /// The number of requests that have started a rotation.
    next_server: AtomicUsize,
    /// The number of pending requests, also those of the pools that this one replaced.
    pending: Arc<AtomicU32>,
    /// Whether the log reported that no server accepts a connection, and none has accepted one since.
    down: AtomicBool,
    started: Instant,
}

/// A server of a pool.
#[derive(Debug)]
pub struct Server {
    /// Its address as the configuration file has it.
    pub name: Arc<str>,
    /// Its address, parsed.
    pub address: ServerAddress,
    /// Whether it failed recently.
    pub health: Health,
    /// The number of attempts to connect that failed.
    pub connect_failures: AtomicU64,
}

/// Counts a request as pending until it is dropped.
#[derive(Debug)]
pub struct PendingRequest<'a>(&'a AtomicU32);

impl Pool {
    /// Creates a pool whose servers have neither failed nor accepted a connection.
    pub fn new(config: UpstreamConfig, now: Instant) -> Self {
        Self {
            servers: config.servers.iter().map(|address| Arc::new(Server::new(address))).collect(),
            next_server: AtomicUsize::new(0),
            pending: Arc::default(),
            down: AtomicBool::new(false),
            config,
            started: now,
        }
    }

    /// Creates the pool that replaces this one after a change of its configuration. It keeps the state of the servers
    /// that both have, and the count of pending requests.
    pub fn replace(&self, config: UpstreamConfig) -> Self {
        let kept = |address: &ServerAddress| self.servers.iter().find(|server| server.address == *address);
        let server = |address: &ServerAddress| kept(address).map_or_else(|| Arc::new(Server::new(address)), Arc::clone);
        Self {
            servers: config.servers.iter().map(server).collect(),
            next_server: AtomicUsize::new(self.next_server.load(Ordering::Relaxed)),
            pending: Arc::clone(&self.pending),
            down: AtomicBool::new(self.down.load(Ordering::Relaxed)),
            config,
            started: self.started,
        }
    }

    /// Returns its configuration.
    pub fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// Returns its servers, in the order of the configuration.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().map(|server| &**server)
    }

    /// Counts a pending request, unless `max_pending_requests` are pending.
    pub fn begin_request(&self) -> Option<PendingRequest<'_>> {
        let below_max = |pending: u32| (pending < self.config.max_pending_requests).then_some(pending + 1);
        self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below_max).ok()?;
        Some(PendingRequest(&self.pending))
    }

    /// Returns the number of pending requests.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Returns every server once, in the order in which one request tries them: round robin.
    pub fn rotation(&self) -> impl Iterator<Item = &Server> {
        let first = self.next_server.fetch_add(1, Ordering::Relaxed) % self.servers.len().max(1);
        let (before, after) = self.servers.split_at_checked(first).unwrap_or_default();
        after.iter().chain(before).map(|server| &**server)
    }

    /// Converts a time to the scale of [`Health`]: milliseconds since the pool was created.
    pub fn millis_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Records that a server accepted a connection.
    pub fn connected(&self, server: &Server) {
        server.health.connected();
        self.down.store(false, Ordering::Relaxed);
    }

    /// Records that no server accepts a connection. Returns true if the log has not reported it yet, and `may_log`
    /// allows a line.
    pub fn report_down(&self, may_log: impl FnOnce() -> bool) -> bool {
        !self.down.load(Ordering::Relaxed) && may_log() && !self.down.swap(true, Ordering::Relaxed)
    }
}

impl Server {
    fn new(address: &ServerAddress) -> Self {
        let name = address.to_string().into();
        Self { name, address: address.clone(), health: Health::default(), connect_failures: AtomicU64::new(0) }
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool(servers: u16, max_pending_requests: u32) -> Pool {
        let address = |port| ServerAddress::Tcp { host: "192.0.2.1".to_owned(), port };
        let config = UpstreamConfig {
            name: "chat".into(),
            servers: (1..=servers).map(address).collect(),
            base_path: String::new(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            max_pending_requests,
            proxy_protocol: false,
            title_case_headers: false,
        };
        Pool::new(config, Instant::now())
    }

    #[test]
    fn each_request_starts_with_the_next_server_and_tries_every_server_once() {
        let pool = pool(3, 1);
        for first in [1, 2, 3, 1] {
            let ports: Vec<u16> =
                pool.rotation().map(|server| server.name.rsplit(':').next().unwrap().parse().unwrap()).collect();
            assert_eq!(ports, [first, first % 3 + 1, (first + 1) % 3 + 1]);
        }
        assert_eq!(self::pool(0, 1).rotation().count(), 0);
    }

    #[test]
    fn pending_requests_are_limited_and_released() {
        let pool = pool(1, 2);
        let first = pool.begin_request();
        let second = pool.begin_request();
        assert!(first.is_some() && second.is_some() && pool.begin_request().is_none());
        drop(first);
        assert!(pool.begin_request().is_some());
    }

    #[test]
    fn a_replaced_pool_keeps_the_state_of_its_servers_and_its_pending_requests() {
        let before = pool(2, 2);
        before.servers[0].health.skip(0);
        let pending = before.begin_request();
        let after = before.replace(UpstreamConfig { max_pending_requests: 1, ..pool(3, 1).config });
        assert_eq!(after.servers().map(|server| server.health.is_due(0)).collect::<Vec<_>>(), [false, true, true]);
        assert!(after.begin_request().is_none());
        drop(pending);
        assert!(after.begin_request().is_some());
    }

    #[test]
    fn an_upstream_that_is_down_is_reported_once() {
        let pool = pool(1, 1);
        assert!(!pool.report_down(|| false));
        assert!(pool.report_down(|| true) && !pool.report_down(|| true));
        pool.rotation().for_each(|server| pool.connected(server));
        assert!(pool.report_down(|| true));
    }
}
