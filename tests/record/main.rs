//! The record layer against the RFC's traces, against an oracle, against rustls in both roles, and against what no peer
//! may send.

mod differential;
mod malformed;
mod oracle;
mod properties;
mod stream;
mod vectors;
