//! The outer ring: sockets, TLS and HTTP, in the order in which a connection meets them.

pub mod listener;
pub mod handshakes;
pub mod worker;
mod turns;
mod cycle;
pub mod tls;
mod handshake;
mod sealed;
mod request_stream;
pub mod connection;
pub mod upgrade;
pub mod headers;
pub mod relay;
pub mod port;
mod socket_state;
pub mod timers;
pub mod lifecycle;
pub mod clock;
pub mod server;

#[cfg(test)]
mod tests;
