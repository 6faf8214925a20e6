//! TLS for client connections: configuration and certificates, the handshake, and the stream after it.

mod sealed;
pub mod challenge;
mod accept;
mod ticket_secret;
pub mod shared_tickets;
pub mod tickets;
pub mod config;
pub mod expiry;
pub mod stream;
mod summary;

pub use self::summary::TlsSummary;
