//! The configuration: parses the TOML file into types that cannot hold an invalid value. No other module uses `toml`.
//!
//! [`load`] reads the file, `file` splits it into sections with source spans, `assemble` and its helpers turn the
//! sections into the types below, and `diagnostic` renders errors and warnings.

mod access;
mod acme;
mod admin;
mod auth;
mod balance;
mod balance_warnings;
mod certificate;
mod claims;
mod cluster;
mod cluster_keys;
mod cluster_url;
mod common;
mod cookie;
mod diagnostic;
mod digest;
mod discover;
mod file;
mod files;
mod forward;
#[cfg(test)]
pub(crate) mod tests;
mod key;
mod sections;
mod key_source;
pub mod keys;
mod limits;
mod behind_proxy;
mod listener;
mod mixed_list;
mod load;
mod logout;
mod model;
mod revocations;
mod networks;
mod refresh;
mod require;
mod rewrite;
mod routes;
mod server_address;
pub mod schema;
mod setting_lines;
mod suggestion;
mod units;
mod upstream_tls;
mod upstreams;
mod assemble;

pub use self::acme::{AcmeConfig, ExternalAccount};
pub use self::certificate::{EXPIRES_SOON, parse_certificate};
pub use self::cluster::{ClusterConfig, OnOutage, Shares};
pub use self::cluster_url::{ClusterServers, RedisAddress};
pub use self::diagnostic::{Diagnostic, Report, Severity, Span};
pub use self::digest::digest;
pub use self::files::{BUILT, Content, Disk, Files};
pub use self::load::{Checked, admin_client, check, load, parse, recheck};
pub use self::model::{
    AdminAddress, AdminClientConfig, AdminConfig, AdminToken, AuthConfig, Certificate, Config, ListenAddress,
    ListenerConfig, ListenerTls, LogConfig, LogFormat, MaxSessions, OnReload, ProcessConfig, RecordLayer, Redirect,
    Shown, Source, TlsMinVersion,
};
pub use self::setting_lines::{Setting, SettingLine, SettingLines, SettingSection};
pub use self::units::duration as parse_duration;
