//! RFC 6455 as pure code: the opening handshake, frame headers, one direction's rules, and close codes.

pub mod handshake;
pub mod deflate;
pub mod frame;
pub mod code;
pub mod violation;
pub mod close;
pub mod utf8;
pub mod inspector;
