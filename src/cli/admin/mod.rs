//! The subcommands that talk to a running process by its admin API.

pub mod args;
pub mod failure;
pub mod client;
pub mod output;
pub mod select;
mod nodes;
pub mod open;
pub mod status;
pub mod sessions;
pub mod kick;
pub mod send;
pub mod upstreams;
pub mod tap;
pub mod reload;
pub mod upgrade;
pub mod revoke;
