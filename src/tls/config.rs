//! The TLS configuration of a listener, and the selection of a certificate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::accept;
use crate::config::{Certificate, RecordLayer};
use crate::runtime::clock;

/// Returns the TLS configuration of one listener: TLS 1.2 and 1.3, HTTP/1.1 only, no early data, stateless tickets.
///
/// # Errors
/// If the system provides no random bytes for the ticket keys, or rustls rejects its own defaults.
pub fn server_config(
    certificates: &[Certificate],
    record_layer: RecordLayer,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SniResolver::new(certificates)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets contain the TLS session, encrypted with keys that rotate, so nothing is stored for disconnected clients.
    // One ticket is enough, since a client that resumes gets another.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
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

/// The longest time between two readings of the clock, which may be set in between.
const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_hours(1);

/// Logs an error for each certificate that expires from now on. Never returns. Certificates that have already expired
/// were reported when the configuration was read.
pub async fn watch_expiry(certificates: Vec<Certificate>) {
    let mut left: Vec<(Duration, Vec<String>)> = Vec::new();
    let now = clock::both().unix;
    for certificate in certificates {
        let not_after = certificate.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if now <= not_after {
            left.push((not_after, certificate.names));
        }
    }
    while let Some(next) = left.iter().map(|(not_after, _)| *not_after).min() {
        // A certificate is still valid at `not_after`.
        let until = next.saturating_add(Duration::from_millis(1)).saturating_sub(clock::both().unix);
        tokio::time::sleep(until.min(EXPIRY_CHECK_INTERVAL)).await;
        let now = clock::both().unix;
        left.retain(|(not_after, names)| {
            let is_valid = now <= *not_after;
            if !is_valid {
                tracing::error!(names = names.join(", "), "a certificate has expired, and clients refuse it");
            }
            is_valid
        });
    }
    std::future::pending::<()>().await;
}
