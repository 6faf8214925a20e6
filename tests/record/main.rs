//! Tests of the record layer: against the traces of RFC 8448, an oracle, rustls in both roles, and invalid records.

mod differential;
mod malformed;
mod oracle;
mod properties;
mod stream;
mod vectors;
