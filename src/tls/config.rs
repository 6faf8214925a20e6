//! The TLS configuration of a listener, and the selection of a certificate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::accept;
use super::challenge::AcmeCertificates;
use super::shared_tickets::SharedTicketSecret;
use super::tickets::TicketKeys;
use crate::client::acme::challenge::ACME_TLS;
use crate::config::{Certificate, ListenerTls, RecordLayer, TlsMinVersion};
use crate::runtime::clock;

/// Returns new keys for the tickets of a listener: random ones, or those that the nodes of a cluster share.
///
/// # Errors
/// If the cipher or HKDF is not available.
pub fn ticketer(shared: Option<SharedTicketSecret>) -> Result<Arc<TicketKeys>, rustls::Error> {
    let now = clock::now();
    let keys = match shared {
        Some(shared) => TicketKeys::derived(shared, now, clock::unix()),
        None => TicketKeys::new(now),
    };
    keys.map(Arc::new)
}

/// Returns the TLS configuration of one listener, with the certificates of ACME if it has those: TLS 1.3 and, if permitted, 1.2, HTTP/1.1 only, no early data,
/// stateless tickets.
///
/// # Errors
/// If rustls rejects its own defaults.
pub fn server_config(
    tls: &ListenerTls,
    acme: Option<&AcmeCertificates>,
    record_layer: RecordLayer,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions: &[_] = match tls.min_version {
        TlsMinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsMinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(match acme {
            Some(acme) => Arc::new(acme.clone()),
            None => Arc::new(SniResolver::new(&tls.certificates)),
        });
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if acme.is_some() {
        // A client that offers another one, too, does not get it.
        config.alpn_protocols.push(ACME_TLS.to_vec());
    }
    // One ticket is enough, since a client that resumes gets another.
    config.ticketer = ticketer;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // An opening handshake must not be replayable (RFC 8446 section 8).
    config.max_early_data_size = 0;
    if record_layer == RecordLayer::Own {
        accept::enable_secret_extraction(&mut config);
    }
    Ok(Arc::new(config))
}

/// The certificates of a listener. A client gets one for the name that it requests (RFC 6066 section 3), preferably a
/// valid one.
#[derive(Debug)]
struct SniResolver {
    /// All certificates, in the order of the configuration. A client that requests no name, or a name that no
    /// certificate has, gets the first valid one.
    all: Vec<Candidate>,
    /// Indices into `all`, by name.
    exact: HashMap<String, Vec<usize>>,
    /// Indices into `all`, by the domain after `*.`. The wildcard matches exactly one label (RFC 6125 section 6.4.3).
    wildcard: HashMap<String, Vec<usize>>,
}

/// A certificate and its validity period, as time since the Unix epoch.
#[derive(Debug)]
struct Candidate {
    key: Arc<CertifiedKey>,
    not_before: Duration,
    not_after: Duration,
}

impl SniResolver {
    fn new(certificates: &[Certificate]) -> Self {
        let mut exact: HashMap<String, Vec<usize>> = HashMap::new();
        let mut wildcard: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut wildcard, domain),
                    None => (&mut exact, name.as_str()),
                };
                map.entry(name.to_ascii_lowercase()).or_default().push(index);
            }
        }
        let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let candidate = |certificate: &Certificate| Candidate {
            key: Arc::clone(&certificate.key),
            not_before: since_epoch(certificate.not_before),
            not_after: since_epoch(certificate.not_after),
        };
        Self { all: certificates.iter().map(candidate).collect(), exact, wildcard }
    }

    /// Returns the certificate for a name at this time since the Unix epoch: the first valid one, with exact names
    /// before wildcards. If no certificate for the name is valid, returns the first of them: to a client, an expired
    /// certificate is a clearer error than one for another name.
    fn find(&self, name: Option<&str>, now: Duration) -> Option<&Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase).unwrap_or_default();
        let exact = self.exact.get(&name).into_iter().flatten();
        let wildcard = name.split_once('.').and_then(|(_, domain)| self.wildcard.get(domain)).into_iter().flatten();
        let named: Vec<&Candidate> = exact.chain(wildcard).filter_map(|index| self.all.get(*index)).collect();
        let candidates = if named.is_empty() { self.all.iter().collect() } else { named };
        let valid = candidates.iter().find(|candidate| (candidate.not_before..=candidate.not_after).contains(&now));
        valid.or(candidates.first()).map(|candidate| &candidate.key)
    }
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name(), clock::both().unix).cloned()
    }
}
