//! The state of the process besides its sessions, as it passes to the process that follows: collected from the gateway
//! of one, and taken over by that of the other.

use std::fmt;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use tracing::Level;
use zeroize::{Zeroize as _, Zeroizing};

use super::found::{self, FoundServers};
use super::gauges::gauges;
use crate::balance::moved::PoolState;
use crate::client::key_sets::moved::KeySetState;
use crate::config::Config;
use crate::front::gateway::Gateway;
use crate::policy::counters::state::CountersState;
use crate::policy::logout::state::RecentLogoutsState;
use crate::policy::revocation::state::RevocationsState;
use crate::runtime::clock;
use crate::telemetry::log;
use crate::telemetry::metrics::MovedMetrics;
use crate::tls::tickets::TicketKeysState;

/// A secret of the process. `Debug` omits it, and the memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Zeroizing<[u8; 32]>> for Secret {
    fn from(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(*secret)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// The ticket keys of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerTickets {
    /// The address that it is bound to.
    pub listener: String,
    /// Its keys.
    pub keys: TicketKeysState,
}

/// The parts of the state. A part that the other process did not send is `None` or empty, and starts anew.
#[derive(Debug, Default)]
pub struct MovedState {
    /// The generation of the configuration.
    pub generation: Option<u64>,
    /// The key of the hashes of clients in the log, for [`Identities::new`](crate::telemetry::identity::Identities::new).
    pub identities: Option<Secret>,
    /// The key of sticky cookies.
    pub cookies: Option<Secret>,
    /// The ticket keys.
    pub tickets: Vec<ListenerTickets>,
    /// The key sets.
    pub key_sets: Vec<KeySetState>,
    /// The servers that were looked up.
    pub found: Vec<FoundServers>,
    /// The state of the pools.
    pub pools: Vec<PoolState>,
    /// The counts.
    pub metrics: Option<MovedMetrics>,
    /// The level of the log, if an operator has set it.
    pub log_level: Option<String>,
    /// The counts of quotas.
    pub counters: Option<CountersState>,
    /// The revocations of the API.
    pub revocations: Option<RevocationsState>,
    /// The logout tokens that were received.
    pub logouts: Option<RecentLogoutsState>,
}

impl MovedState {
    /// Collects the state of this process. `level` is the level of the log that the configuration says. It reads files of
    /// `/proc`, so it must not be called by a worker.
    pub fn export(gateway: &Gateway, level: Level) -> Self {
        let (now, snapshot) = (clock::now(), gateway.snapshot());
        let tickets = snapshot.tickets();
        let current = log::handle().map(log::LogHandle::level);
        Self {
            generation: Some(snapshot.generation()),
            identities: Some(gateway.process.sessions.identities().export().into()),
            cookies: Some(gateway.connector.export_cookie_secret().into()),
            tickets: tickets
                .map(|(address, keys)| ListenerTickets { listener: address.to_string(), keys: keys.export(now) })
                .collect(),
            key_sets: gateway.key_sets.export(now),
            found: found::export(&snapshot),
            pools: snapshot.pools().map(|pool| pool.export(now)).collect(),
            metrics: Some(gateway.process.metrics.export(&gauges(gateway))),
            log_level: current.filter(|current| *current != level).map(|level| level.to_string()),
            counters: Some(gateway.counters.export(now)),
            revocations: Some(gateway.counters.revocations().export(clock::both().unix)),
            logouts: Some(gateway.logouts.recent.export(clock::both().unix)),
        }
    }

    /// Gives the upstreams of a configuration the servers that the other process has looked up. It must precede the first
    /// snapshot.
    pub fn adopt_found(&self, config: &mut Config) {
        found::adopt_moved(config, &self.found);
    }

    /// Takes the state over. The first snapshot must have been made with
    /// [`Snapshot::following`](crate::front::snapshot::Snapshot::following), the servers of
    /// [`MovedState::adopt_found`], and pools that started [`STARTED_BEFORE`](crate::balance::moved::STARTED_BEFORE) now.
    /// It must precede the first connection and the first fetch of keys.
    pub fn import(self, gateway: &Gateway) {
        let (now, snapshot) = (clock::now(), gateway.snapshot());
        gateway.process.events.set_generation(snapshot.generation());
        if let Some(secret) = self.cookies {
            gateway.connector.import_cookie_secret(Zeroizing::new(*secret.bytes()));
        }
        for (address, keys) in snapshot.tickets() {
            let address = address.to_string();
            let moved = self.tickets.iter().find(|moved| moved.listener == address);
            if let Some(Err(error)) = moved.map(|moved| keys.import(&moved.keys, now)) {
                tracing::warn!(listener = %address, %error, "ticket keys of the process before cannot be used");
            }
        }
        let unusable = gateway.key_sets.import(&self.key_sets, now);
        if unusable > 0 {
            tracing::warn!(unusable, "key sets of the process before cannot be used");
        }
        if let Some(counters) = self.counters {
            gateway.counters.import(counters, now);
        }
        let unix = clock::both().unix;
        let unusable = self.revocations.map_or(0, |moved| gateway.counters.revocations().import(moved, unix));
        if unusable > 0 {
            tracing::error!(unusable, "revocations of the process before are not in effect");
        }
        if let Some(logouts) = self.logouts {
            gateway.logouts.recent.import(logouts, unix);
        }
        for moved in &self.pools {
            if let Some(pool) = snapshot.pool(&moved.upstream) {
                pool.import(moved, now);
            }
        }
        let left_out = self.metrics.map_or(0, |moved| gateway.process.metrics.import(moved));
        if left_out > 0 {
            tracing::warn!(left_out, "series of the process before cannot be continued");
        }
        let level = self.log_level.and_then(|level| Level::from_str(&level).ok());
        if let (Some(level), Some(log)) = (level, log::handle()) {
            log.set_level(level);
        }
    }
}
