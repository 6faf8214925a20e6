//! The values that other parts of the process own, which the caller of a scrape passes.

use std::sync::Arc;
use std::time::Duration;

/// The values of a scrape that are kept elsewhere.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Gauges {
    /// The generation of the snapshot in use.
    pub config_generation: u64,
    /// The certificates in use. Of several with one name, the text shows the one that expires first.
    pub certificates: Vec<CertificateGauges>,
    /// The servers of the snapshot's pools.
    pub servers: Vec<ServerGauges>,
    /// The log lines that were lost because the log is not read fast enough:
    /// [`log::dropped_lines`](crate::telemetry::log::dropped_lines).
    pub log_lines_dropped: u64,
}

/// The values of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateGauges {
    /// Its first name.
    pub name: String,
    /// The end of its validity, since the Unix epoch.
    pub expires: Duration,
}

/// The values of a server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerGauges {
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// The server, as the configuration names it.
    pub server: Arc<str>,
    /// The number of attempts to connect that failed.
    pub connect_failures: u64,
}
