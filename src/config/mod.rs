//! The configuration: the only code that knows TOML. It gives the rest narrow types that cannot hold a bad value.
//!
//! The way of a file: [`load`] reads it, `file` takes it apart into sections with places, `assemble` and its helpers turn
//! the sections into the types below, `diagnostic` shows what was wrong.

mod auth;
mod certificate;
mod claims;
mod common;
mod diagnostic;
mod file;
mod files;
pub mod keys;
mod limits;
mod load;
mod model;
mod routes;
mod suggestion;
mod units;
mod upstreams;
mod assemble;

pub use self::diagnostic::{Diagnostic, Report, Severity, Span};
pub use self::files::{BUILT, Content, Disk, Files};
pub use self::load::{Checked, check, load, parse};
pub use self::model::{
    Certificate, Config, ListenerConfig, LogConfig, LogFormat, MaxSessions, ProcessConfig, RecordLayer, ServerAddress,
    Shown, UpstreamConfig,
};
