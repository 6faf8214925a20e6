//! State that several nodes share through a Redis or Valkey server. Nothing that a frame needs waits for that server.
//!
//! [`connect`] opens connections, [`link`] knows whether the server answers, and [`nodes`] keeps the node registered.

pub mod connect;
pub mod handle;
pub mod keys;
pub mod leases;
pub mod link;
pub mod nodes;
