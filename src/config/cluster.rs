//! Types only.
use crate::policy::remote::Roots;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;
/// x
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// x
    pub servers: ClusterServers,
    /// x
    pub username: Option<String>,
    /// x
    pub password: Option<Zeroizing<String>>,
    /// x
    pub roots: Roots,
    /// x
    pub secret: Option<Zeroizing<Vec<u8>>>,
    /// x
    pub prefix: Arc<str>,
    /// x
    pub timeout: Duration,
    /// x
    pub node_timeout: Duration,
    /// x
    pub share: Shares,
    /// x
    pub on_outage: OnOutage,
}
impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig").finish_non_exhaustive()
    }
}
/// x
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// x
    pub quotas: bool,
    /// x
    pub slots: bool,
    /// x
    pub revocations: bool,
    /// x
    pub sessions: bool,
}
/// x
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOutage {
    /// x
    Local,
    /// x
    Refuse,
}
/// x
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterServers {
    /// x
    Single {
        /// x
        address: RedisAddress,
        /// x
        tls: bool,
        /// x
        db: u32,
    },
    /// x
    Sentinel {
        /// x
        sentinels: Vec<(String, u16)>,
        /// x
        master: String,
        /// x
        tls: bool,
        /// x
        db: u32,
    },
    /// x
    Cluster {
        /// x
        nodes: Vec<(String, u16)>,
        /// x
        tls: bool,
    },
}
impl fmt::Display for ClusterServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("x")
    }
}
/// x
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// x
    Tcp(String, u16),
    /// x
    Unix(PathBuf),
}
