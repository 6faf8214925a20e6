//! The WebSocket protocol (RFC 6455) without I/O: opening handshake, frames, the rules of one direction, close codes.

pub mod grammar;
pub mod handshake;
pub mod deflate;
pub mod frame;
pub mod code;
pub mod violation;
pub mod close;
pub mod utf8;
pub mod inspector;
