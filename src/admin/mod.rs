//! The admin API: facts about the process, its sessions, and operations on them, over HTTP on a Unix socket or
//! loopback.
//!
//! [`Admin`] serves on a thread of its own, so that neither a slow client of the API nor a long answer delays a
//! session. Each request passes `access` first; `api` has the table of endpoints, from which the OpenAPI document is
//! generated.

mod listener;
mod problem;
mod access;
mod audit;
mod extract;
mod page;
mod state;
mod schema;
mod filter;
mod paging;
mod view;
mod handover;
mod process;
mod metrics;
mod nodes;
mod history;
mod explain;
mod events;
mod settings;
mod servers;
mod upstreams;
mod routes;
mod auths;
mod certificates;
mod shared;
mod listing;
mod sessions;
mod operations;
mod remote;
mod frames;
mod revocations;
mod api;
mod serve;

pub use self::serve::{Admin, AdminError};
