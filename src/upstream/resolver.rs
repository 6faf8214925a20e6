//! Looks up names: in the hosts file, or at the name servers of the system or of `resolver`.

use std::fmt;
use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, Resolver as DnsClient};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::dns_runtime::DnsRuntime;
use crate::balance::discovery::{Service, TTL_MAX, TTL_MIN};
use crate::runtime::tasks::Tasks;

/// The maximum number of look-ups at once. Each has two sockets at most: for the A and the AAAA records.
const AT_ONCE: usize = 16;
/// The descriptors of look-ups, with a connection for each of a few name servers.
pub const DESCRIPTORS: usize = 2 * AT_ONCE + 8;
/// The maximum number of answers that are kept by the resolver.
const CACHED_MAX: u64 = 4096;
/// The longest time for which the answer that a name has no records is used again.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
/// The interval at which a change of [`FILES`] is noticed.
const FILES_CHECKED: Duration = Duration::from_secs(1);
/// The files with the names and the name servers of the system.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// The resolver of the process. Its clones share their look-ups, which one runtime runs.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    clock: fn() -> Instant,
    /// The name servers of the configuration; empty: those of the system.
    servers: Mutex<Arc<[SocketAddr]>>,
    client: Mutex<Option<Arc<Client>>>,
    places: Semaphore,
    /// The runtime of the look-ups; absent in tests, where it is that of the caller.
    runtime: OnceLock<Handle>,
    tasks: Tasks,
}

/// A client of name servers, and the names of the hosts file.
struct Client {
    servers: Arc<[SocketAddr]>,
    stamps: [Stamp; 2],
    checked: Instant,
    dns: Option<DnsClient<DnsRuntime>>,
    hosts: Arc<Hosts>,
}

/// The state of a file by which a change is noticed; `None` if there is no such file.
type Stamp = Option<(u64, i64, i64, u64)>;

/// Why a name has no records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUpError {
    /// The name servers say that there are none.
    NoRecords,
    /// The name servers do not answer, or refuse to.
    Failed(String),
}

impl fmt::Display for LookUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecords => f.write_str("the name has no records of this kind"),
            Self::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for LookUpError {}

/// Records of a name, and how long they are valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// The records.
    pub records: Vec<T>,
    /// How long they are valid.
    pub ttl: Duration,
}

/// The IPv4 and the IPv6 addresses of a name.
pub type FoundAddresses = [Result<Found<IpAddr>, LookUpError>; 2];

impl Resolver {
    /// Creates a resolver that asks the name servers of the system.
    pub fn new(clock: fn() -> Instant) -> Self {
        let places = Semaphore::new(AT_ONCE);
        let (servers, client, runtime) = (Mutex::default(), Mutex::default(), OnceLock::new());
        Self(Arc::new(Shared { clock, servers, client, places, runtime, tasks: Tasks::default() }))
    }

    /// Sets the runtime that runs all look-ups from now on. Only the first call has an effect.
    pub fn run_on(&self, runtime: Handle) {
        // The look-ups of one process have one runtime.
        let _ = self.0.runtime.set(runtime);
    }

    /// Sets the name servers; an empty list: those of the system.
    pub fn use_servers(&self, servers: &[SocketAddr]) {
        *self.0.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers.into();
    }

    /// Returns the addresses of a name. The names of the hosts file come first.
    pub async fn addresses(&self, host: &str) -> FoundAddresses {
        let (shared, host) = (Arc::clone(&self.0), host.to_owned());
        let looking = self.run(async move {
            let client = shared.client();
            if let Some(listed) = client.listed(&host) {
                return listed;
            }
            let (v4, v6) = tokio::join!(
                client.look_up(&host, RecordType::A, RData::ip_addr, shared.clock),
                client.look_up(&host, RecordType::AAAA, RData::ip_addr, shared.clock),
            );
            [v4, v6]
        });
        looking.await.unwrap_or_else(|error| [Err(error.clone()), Err(error)])
    }

    /// Returns the SRV records of a name.
    ///
    /// # Errors
    /// If it has none, or the name servers do not say so.
    pub async fn services(&self, name: &str) -> Result<Found<Service>, LookUpError> {
        let (shared, name) = (Arc::clone(&self.0), name.to_owned());
        let service = |data: &RData| match data {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                host: srv.target.to_ascii().to_ascii_lowercase(),
                port: srv.port,
            }),
            _ => None,
        };
        let looking =
            self.run(async move { shared.client().look_up(&name, RecordType::SRV, service, shared.clock).await });
        looking.await?
    }

    /// Runs a look-up, until the caller does not wait for it any more.
    async fn run<T: Send + 'static>(
        &self,
        look_up: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, LookUpError> {
        let interrupted = || LookUpError::Failed("the look-up was interrupted".to_owned());
        let (answer, answered) = oneshot::channel();
        let shared = Arc::clone(&self.0);
        let runtime = self.0.runtime.get().cloned().unwrap_or_else(Handle::current);
        let end = CancellationToken::new();
        let _waiting = end.clone().drop_guard();
        self.0.tasks.start_on(&runtime, async move {
            let looking = async {
                let _place = shared.places.acquire().await;
                look_up.await
            };
            tokio::select! {
                () = end.cancelled() => {}
                found = looking => drop(answer.send(found)),
            }
        });
        answered.await.map_err(|_| interrupted())
    }
}

impl Shared {
    /// Returns the client for the name servers and the files as they are now.
    fn client(&self) -> Arc<Client> {
        let now = (self.clock)();
        let servers = Arc::clone(&self.servers.lock().unwrap_or_else(PoisonError::into_inner));
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let same_servers = current.as_ref().filter(|client| client.servers == servers);
        if let Some(client) =
            same_servers.filter(|client| now.saturating_duration_since(client.checked) < FILES_CHECKED)
        {
            return Arc::clone(client);
        }
        let stamps = FILES.map(stamp);
        let client = match same_servers.filter(|client| client.stamps == stamps) {
            // Its cached answers stay.
            Some(client) => {
                let (dns, hosts) = (client.dns.clone(), Arc::clone(&client.hosts));
                Client { checked: now, stamps, servers, dns, hosts }
            }
            None => Client { checked: now, stamps, dns: dns(&servers), servers, hosts: hosts() },
        };
        let client = Arc::new(client);
        *current = Some(Arc::clone(&client));
        client
    }
}

fn stamp(path: &str) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
}

fn hosts() -> Arc<Hosts> {
    Arc::new(Hosts::from_system().unwrap_or_default())
}

/// Creates the client of these name servers, or of those in `/etc/resolv.conf`. Without that file the name server is on
/// this machine, as for the functions of the system.
fn dns(servers: &[SocketAddr]) -> Option<DnsClient<DnsRuntime>> {
    let of = |servers: &[SocketAddr]| {
        let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
        DnsClient::builder_with_config(config, DnsRuntime::default())
    };
    let mut builder = if servers.is_empty() {
        DnsClient::builder(DnsRuntime::default()).unwrap_or_else(|_| of(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]))
    } else {
        of(servers)
    };
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = CACHED_MAX;
    options.positive_min_ttl = Some(TTL_MIN);
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    // The next name server is asked if one does not answer.
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.num_concurrent_reqs = 1;
    builder.build().ok()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = address.port());
    server
}

impl Client {
    /// Returns the addresses of a name that the hosts file lists. Then the name servers are not asked for any.
    fn listed(&self, host: &str) -> Option<FoundAddresses> {
        let name = Name::from_ascii(host).ok()?;
        let listed = [RecordType::A, RecordType::AAAA].map(|kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            let records = found.iter().flat_map(Lookup::answers).filter_map(|record| record.data.ip_addr());
            records.collect::<Vec<_>>()
        });
        // The file may change at any time.
        let found = |records| Ok(Found { records, ttl: TTL_MIN });
        listed.iter().any(|records| !records.is_empty()).then(|| listed.map(found))
    }

    async fn look_up<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
        clock: fn() -> Instant,
    ) -> Result<Found<T>, LookUpError> {
        let dns = self.dns.as_ref().ok_or_else(|| LookUpError::Failed("no name server can be used".to_owned()))?;
        let name = Name::from_ascii(name).map_err(|error| LookUpError::Failed(error.to_string()))?;
        let found = dns.lookup(name, kind).await.map_err(|error| reason(&error))?;
        let records: Vec<T> = found.answers().iter().filter_map(|record| read(&record.data)).collect();
        if records.is_empty() {
            return Err(LookUpError::NoRecords);
        }
        Ok(Found { records, ttl: found.valid_until().saturating_duration_since(clock()) })
    }
}

fn reason(error: &NetError) -> LookUpError {
    if error.is_no_records_found() {
        LookUpError::NoRecords
    } else if matches!(error, NetError::Timeout) {
        LookUpError::Failed("the name servers do not answer".to_owned())
    } else {
        LookUpError::Failed(error.to_string())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("servers", &self.0.servers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// The name servers of the test refuse connections and datagrams: they are never asked.
    #[test]
    fn localhost_needs_no_name_server() {
        run(async {
            let resolver = Resolver::new(Instant::now);
            resolver.use_servers(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 9))]);
            let found = resolver.addresses("localhost").await;
            let addresses: Vec<IpAddr> = found.into_iter().flatten().flat_map(|found| found.records).collect();
            assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        });
    }

    #[test]
    fn names_that_never_exist_have_no_records() {
        run(async {
            let found = Resolver::new(Instant::now).addresses("nothing.invalid").await;
            assert_eq!(found, [Err(LookUpError::NoRecords), Err(LookUpError::NoRecords)]);
        });
    }

    /// A name server that does not answer keeps no look-up in progress without a caller.
    #[test]
    fn look_ups_end_with_their_callers() {
        run(async {
            let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let resolver = Resolver::new(Instant::now);
            resolver.use_servers(&[silent.local_addr().unwrap()]);
            let free = || resolver.0.places.available_permits();
            let names: Vec<String> = (0..2 * AT_ONCE).map(|number| format!("{number}.test")).collect();
            let mut looking = Box::pin(join_all(names.iter().map(|name| resolver.addresses(name))));
            while free() > 0 {
                assert!(poll!(&mut looking).is_pending());
                tokio::task::yield_now().await;
            }
            drop(looking);
            while free() < AT_ONCE {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn a_listed_name_has_the_addresses_of_the_file_only() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&b"192.0.2.7 backend.internal\n2001:db8::1 six\n2001:db8::2 six\n"[..]).unwrap();
        let client = Client {
            servers: Arc::default(),
            stamps: [None; 2],
            checked: Instant::now(),
            dns: None,
            hosts: Arc::new(hosts),
        };
        let listed = |host| {
            let found = client.listed(host)?;
            Some(found.map(|found| found.unwrap().records.iter().map(ToString::to_string).collect::<Vec<_>>()))
        };
        assert_eq!(listed("backend.internal"), Some([vec!["192.0.2.7".to_owned()], Vec::new()]));
        assert_eq!(listed("six").unwrap()[1].len(), 2);
        assert_eq!(listed("other"), None);
    }
}
