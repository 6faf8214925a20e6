//! The TLS settings of an upstream: plain data that can be compared.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// How the connections to the servers of an upstream are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The roots that the servers' certificates must lead to.
    pub roots: Roots,
    /// The name that their certificates must have; `None`: the host of each server's address.
    pub server_name: Option<ServerName<'static>>,
    /// The certificate that Tollgate presents to a server that requests one.
    pub certificate: Option<ClientCertificate>,
    /// The lowest version.
    pub min_version: TlsMinVersion,
}

/// The roots that the certificate of a server must lead to.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub enum Roots {
    /// The roots of the system.
    #[default]
    System,
    /// These certificates: at least one.
    Certificates(Arc<[CertificateDer<'static>]>),
}

/// Shows the number of the certificates.
impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Certificates(certificates) => write!(f, "Certificates({})", certificates.len()),
        }
    }
}

/// A certificate chain and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key that matches it.
    pub key: Arc<PrivateKeyDer<'static>>,
    /// The end of its validity, inclusive.
    pub not_after: SystemTime,
}

/// Shows the number of the certificates, and nothing of the key.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.chain.len())
    }
}

/// The lowest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMinVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::PrivatePkcs8KeyDer;

    use super::*;

    #[test]
    fn a_private_key_is_not_shown() {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(vec![42; 8]));
        let own = ClientCertificate {
            chain: vec![CertificateDer::from(vec![7])],
            key: Arc::new(key),
            not_after: SystemTime::UNIX_EPOCH,
        };
        let tls = UpstreamTls {
            roots: Roots::System,
            server_name: None,
            certificate: Some(own),
            min_version: TlsMinVersion::Tls12,
        };
        let shown = format!("{tls:?}");
        assert!(shown.contains("ClientCertificate(1)") && !shown.contains("42"), "{shown}");
    }
}
