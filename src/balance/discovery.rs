//! The set of servers that a look-up finds, and the time of the next look-up.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::config::{ServerAddress, ServerConfig};

/// Maximum number of servers of one name. Further ones are left out.
pub const FOUND_MAX: usize = 256;
/// The bounds of the time after which a name is looked up again, whatever its TTL says.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// See [`TTL_MIN`].
pub const TTL_MAX: Duration = Duration::from_mins(5);
/// The pause after the first look-up that fails. It doubles with each further one, up to [`PAUSE_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a look-up that fails.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The largest weight of a server. Larger weights of SRV records are scaled down to it.
const WEIGHT_MAX: u32 = 1000;
/// The share of its TTL for which a set may be kept beyond it, so that processes do not ask together.
const LATE_MAX: f64 = 0.1;

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its priority: a lower one is preferred.
    pub priority: u16,
    /// Its weight among the records of the same priority.
    pub weight: u16,
    /// Its target.
    pub host: String,
    /// The port of its target.
    pub port: u16,
}

/// Returns the records with the lowest priority that is present, each with the weight of its servers: 1 to 1000, in
/// proportion to the weights of the records. A record with the weight 0 has the smallest weight. The target `.` says
/// that there is no service.
pub fn preferred(services: Vec<Service>) -> Vec<(Service, NonZeroU16)> {
    let usable = |service: &Service| !matches!(service.host.as_str(), "" | ".") && service.port > 0;
    let lowest = services.iter().filter(|service| usable(service)).map(|service| service.priority).min();
    let kept = |service: &Service| usable(service) && Some(service.priority) == lowest;
    let services: Vec<_> = services.into_iter().filter(kept).collect();
    let largest = services.iter().map(|service| u32::from(service.weight)).max().unwrap_or_default();
    let scaled = |weight: u16| {
        let weight = u32::from(weight);
        let scaled = if largest > WEIGHT_MAX { weight.saturating_mul(WEIGHT_MAX) / largest } else { weight };
        u16::try_from(scaled).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)
    };
    services.into_iter().map(|service| (service.clone(), scaled(service.weight))).collect()
}

/// A set of servers in a form in which two sets can be compared: the order of the answers does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundSet {
    /// The servers, by address.
    pub servers: Vec<ServerConfig>,
    /// The number of servers beyond [`FOUND_MAX`], which were left out.
    pub left_out: usize,
}

impl FoundSet {
    /// Creates the set of these servers. Of several with one address, the one with the largest weight is kept. Addresses
    /// that are not of one machine are left out: a connection to an unspecified one would reach this machine.
    pub fn new(mut servers: Vec<ServerConfig>) -> Self {
        servers.retain(|server| is_of_a_machine(&server.address));
        let order = |server: &ServerConfig| (server.address.clone(), Reverse(server.weight));
        servers.sort_by_cached_key(order);
        servers.dedup_by(|next, kept| next.address == kept.address);
        let left_out = servers.len().saturating_sub(FOUND_MAX);
        servers.truncate(FOUND_MAX);
        Self { servers, left_out }
    }
}

fn is_of_a_machine(address: &ServerAddress) -> bool {
    let ServerAddress::Tcp { host, .. } = address else { return true };
    match host.parse() {
        Ok(IpAddr::V4(ip)) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        Ok(IpAddr::V6(ip)) => !ip.is_unspecified() && !ip.is_multicast(),
        Err(_) => true,
    }
}

/// Returns the server at an address that a look-up found.
pub fn found_server(host: String, port: u16, weight: NonZeroU16) -> ServerConfig {
    ServerConfig { weight, ..ServerAddress::Tcp { host, port }.into() }
}

/// A change of the state of look-ups that is to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookUpChange {
    /// The first failure after a success, or at the start.
    Fails,
    /// The first success after a failure.
    Works,
}

/// The state of the look-ups of one name: its last set, and its failures since then.
#[derive(Debug, Default)]
pub struct LookUps {
    /// The last set that was found; `None` before the first one.
    set: Option<FoundSet>,
    /// The number of failures since the last success.
    failures: u32,
    /// The number of all failures.
    failures_total: u64,
}

/// The result of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookedUp {
    /// Whether the set differs from the one before.
    pub is_new_set: bool,
    /// The change that is to be logged.
    pub change: Option<LookUpChange>,
    /// The time until the next look-up.
    pub pause: Duration,
}

impl LookUps {
    /// Records a look-up that found this set, whose answer is valid for `ttl`. The next one follows when it ends, up to
    /// a tenth later, as `random` decides.
    pub fn succeed(&mut self, set: FoundSet, ttl: Duration, random: u32) -> LookedUp {
        let change = (self.failures > 0).then_some(LookUpChange::Works);
        self.failures = 0;
        let is_new_set = self.set.as_ref() != Some(&set);
        self.set = Some(set);
        let pause = ttl.clamp(TTL_MIN, TTL_MAX).mul_f64(1.0 + LATE_MAX * fraction(random));
        LookedUp { is_new_set, change, pause }
    }

    /// Records a look-up that failed: the set before stays. The next one follows after a pause, of which `random`
    /// decides a half.
    pub fn fail(&mut self, random: u32) -> LookedUp {
        let change = (self.failures == 0).then_some(LookUpChange::Fails);
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let pause = PAUSE_MIN.saturating_mul(factor).min(PAUSE_MAX).mul_f64(0.5 + 0.5 * fraction(random));
        self.failures = self.failures.saturating_add(1).min(u32::BITS - 1);
        self.failures_total = self.failures_total.saturating_add(1);
        LookedUp { is_new_set: false, change, pause }
    }

    /// Returns the last set that was found.
    pub fn set(&self) -> Option<&FoundSet> {
        self.set.as_ref()
    }

    /// Returns the number of all failures.
    pub fn failures(&self) -> u64 {
        self.failures_total
    }
}

/// Maps a random number to a number from 0 to 1.
fn fraction(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
