//! TLS for client connections: configuration and certificates, the handshake, and the stream after it.

mod sealed;
pub mod challenge;
mod accept;
pub mod tickets;
pub mod config;
pub mod expiry;
pub mod stream;
mod summary;

pub use self::summary::TlsSummary;
