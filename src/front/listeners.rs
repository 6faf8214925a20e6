//! The listeners of a snapshot, and the `[acme.NAME]` sections that get their certificates. An unchanged listener is the
//! same object as in the snapshot before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::connection_config::{ConnectionConfig, PlainConfig};
use crate::client::acme::{Challenges, Held, HeldSections};
use crate::config::{AcmeConfig, Config, ListenAddress, ListenerConfig, RecordLayer, Redirect};
use crate::tls;
use crate::tls::challenge::AcmeCertificates;
use crate::tls::shared_tickets::SharedTicketSecret;
use crate::tls::tickets::TicketKeys;

/// The default port of `https`.
const HTTPS_PORT: u16 = 443;
/// An `[acme.NAME]` section and its certificates.
#[derive(Debug, Clone)]
pub struct AcmeSection {
    /// The section.
    pub config: Arc<AcmeConfig>,
    /// Its certificates, which change without a new snapshot.
    pub held: Arc<Held>,
}

/// The listeners of a snapshot.
#[derive(Debug)]
pub(super) struct Listeners {
    /// By the address that each is bound to.
    pub(super) by_address: BTreeMap<ListenAddress, Listener>,
    /// The sections that they use.
    pub(super) acmes: Vec<AcmeSection>,
    record_layer: RecordLayer,
    https_port: u16,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) config: ListenerConfig,
    acme: Option<Arc<Held>>,
    pub(super) connections: Arc<ConnectionConfig>,
    /// Kept by every later snapshot, so that tickets stay valid, unless it is derived for the names of the certificates, and
    /// those change.
    pub(super) ticketer: Arc<TicketKeys>,
}

impl Listeners {
    /// Builds the listeners of a configuration, whose addresses are in its order.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub(super) fn build(
        config: &Config,
        (addresses, acme): (&[ListenAddress], &Arc<HeldSections>),
        before: Option<&Self>,
    ) -> Result<Self, rustls::Error> {
        let state_dir = config.server.state_dir.as_deref();
        let section = |config: &Arc<AcmeConfig>| AcmeSection {
            config: Arc::clone(config),
            held: acme.section(config, state_dir),
        };
        let acmes: Vec<AcmeSection> = config.acmes.iter().map(section).collect();
        let shared = SharedSettings {
            record_layer: config.server.record_layer,
            challenges: acme.challenges(),
            https_port: https_port(addresses, &config.listeners),
        };
        let mut listeners = BTreeMap::new();
        let same_shared = before
            .is_some_and(|before| before.record_layer == shared.record_layer && before.https_port == shared.https_port);
        for (address, listener) in addresses.iter().zip(&config.listeners) {
            let kept = before.and_then(|before| before.by_address.get(address));
            let shared_tickets = shared_tickets(config, listener);
            let ticketer = match kept.filter(|kept| kept.ticketer.are_from(shared_tickets.as_ref())) {
                Some(kept) => Arc::clone(&kept.ticketer),
                None => tls::config::ticketer(shared_tickets)?,
            };
            let name = listener.tls.as_ref().and_then(|tls| tls.acme.as_ref());
            let held = name.and_then(|name| acmes.iter().find(|section| section.config.name == *name));
            let held = held.map(|section| Arc::clone(&section.held));
            let is_same_acme = |kept: &Listener| match (&kept.acme, &held) {
                (Some(kept), Some(held)) => Arc::ptr_eq(kept, held),
                (kept, held) => kept.is_none() && held.is_none(),
            };
            let is_same = |kept: &Listener| kept.config == *listener && Arc::ptr_eq(&kept.ticketer, &ticketer);
            let unchanged = kept.filter(|kept| same_shared && is_same(kept) && is_same_acme(kept));
            let connections = match unchanged {
                Some(kept) => Arc::clone(&kept.connections),
                None => Arc::new(connection_config(address, listener, held.as_ref(), &shared, &ticketer)?),
            };
            let listener = Listener { config: listener.clone(), acme: held, connections, ticketer };
            listeners.insert(address.clone(), listener);
        }
        let (record_layer, https_port) = (shared.record_layer, shared.https_port);
        Ok(Self { by_address: listeners, acmes, record_layer, https_port })
    }
}

/// Returns what the ticket keys of a listener are derived from: the secret of the cluster, if there is one, and the names
/// of the listener's certificates.
fn shared_tickets(config: &Config, listener: &ListenerConfig) -> Option<SharedTicketSecret> {
    let secret = config.cluster.as_ref()?.secret.as_ref()?;
    let tls = listener.tls.as_ref()?;
    let ordered = config.acmes.iter().filter(|acme| tls.acme.as_ref() == Some(&acme.name));
    let ordered = ordered.flat_map(|acme| acme.names.iter().map(AsRef::as_ref));
    let own = tls.certificates.iter().flat_map(|certificate| certificate.names.iter().map(String::as_str));
    Some(SharedTicketSecret::new(secret, own.chain(ordered)))
}

/// The settings that all listeners share.
struct SharedSettings<'a> {
    record_layer: RecordLayer,
    challenges: &'a Arc<Challenges>,
    /// The port of redirects.
    https_port: u16,
}

/// Returns the port to which plain listeners redirect: that of the listener with TLS if there is one such TCP port, else
/// 443.
fn https_port(addresses: &[ListenAddress], listeners: &[ListenerConfig]) -> u16 {
    let with_tls = addresses.iter().zip(listeners).filter(|(_, listener)| listener.tls.is_some());
    let mut ports: Vec<u16> = with_tls.filter_map(|(address, _)| address.tcp().map(|bound| bound.port())).collect();
    ports.sort_unstable();
    ports.dedup();
    match *ports {
        [only] => only,
        _ => HTTPS_PORT,
    }
}

fn connection_config(
    address: &ListenAddress,
    listener: &ListenerConfig,
    held: Option<&Arc<Held>>,
    shared: &SharedSettings<'_>,
    ticketer: &Arc<TicketKeys>,
) -> Result<ConnectionConfig, rustls::Error> {
    let challenges = || Arc::clone(shared.challenges);
    let acme = held.map(|held| AcmeCertificates { held: Arc::clone(held), challenges: challenges() });
    let tls = listener.tls.as_ref();
    let tls = tls
        .map(|tls| tls::config::server_config(tls, acme.as_ref(), shared.record_layer, ticketer.clone()))
        .transpose()?;
    let plain = tls.is_none().then(|| PlainConfig {
        challenges: challenges(),
        https_port: (listener.redirect == Redirect::Https).then_some(shared.https_port),
    });
    Ok(ConnectionConfig {
        listener: address.clone(),
        tls,
        plain,
        proxy_protocol_from: listener.proxy_protocol_from.clone(),
        trusted_proxies: listener.trusted_proxies.clone(),
        handshake_timeout: listener.handshake_timeout,
        head_max_bytes: listener.head_max_bytes,
        head_max_headers: listener.head_max_headers,
        keep_alive_timeout: listener.keep_alive_timeout,
        body_timeout: listener.body_timeout,
        requests_per_connection: listener.requests_per_connection,
    })
}
