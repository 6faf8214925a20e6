//! State that several nodes share through a Redis or Valkey server. Nothing that a frame needs waits for that server.
//!
//! [`connect`] opens connections, [`link`] knows whether the server answers, and [`nodes`] keeps the node registered.
//! [`slots`] counts the sessions of a client on all nodes.

pub mod connect;
pub mod handle;
pub mod keys;
pub mod link;
pub mod nodes;
pub mod slot_registry;
pub mod slots;
