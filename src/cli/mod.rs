//! The command line: one module per subcommand.

pub mod config_file;
mod shell;
pub mod admin;
pub mod args;
mod systemd;
mod signals;
pub mod run;
mod check_online;
pub mod check;
pub mod demo;
pub mod service;
pub mod token;
mod print;
pub mod schema;
pub mod man;
pub mod completions;
