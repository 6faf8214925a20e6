//! State that several nodes share through a Redis or Valkey server. Nothing that a frame needs waits for that server.
//!
//! [`connect`] opens connections, [`check`](mod@check) tries what a node needs, [`link`] knows whether the server answers,
//! [`nodes`] keeps the node registered, [`leases`] carries the shares of quotas, [`slots`] counts the sessions of a client on
//! all nodes, and [`events`] tells the nodes of revocations and of operations of the API.

pub mod check;
pub mod connect;
pub mod directory;
pub mod event;
mod event_counts;
pub mod events;
pub mod handle;
pub mod keys;
pub mod leases;
pub mod link;
mod log_limit;
mod member;
pub mod nodes;
mod outbox;
mod purges;
mod reader;
pub mod renewal;
mod revocation_set;
mod seal;
mod stream;
mod time;
pub mod slot_registry;
pub mod slots;
