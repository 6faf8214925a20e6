//! The configuration: the only code that knows TOML. It gives the rest narrow types that cannot hold a bad value.
//!
//! The way of a file: [`load`] reads it, `file` takes it apart into sections with places, `validate` and its helpers turn
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
mod suggest;
mod units;
mod upstreams;
mod validate;

pub use self::diagnostic::{Fault, Report, Severity, Span};
pub use self::files::{BUILT, Content, Disk, Files};
pub use self::load::{Checked, check, load, parse};
pub use self::model::{
    Certificate, Config, Listener, Log, LogFormat, MaxSessions, RecordLayer, Server, ServerAddress, Shown, Upstream,
};
