//! A connection from its accept to its session: the TLS handshake, one request, and its response.

pub mod connection_config;
pub mod listeners;
pub mod snapshot;
pub mod revoker;
pub mod logouts;
pub mod waiting;
pub mod gateway;
mod accept;
pub mod adopt;
mod admitted;
pub mod identify;
pub mod headers;
pub mod question;
mod authenticate;
mod response;
mod head_rejection;
mod keys;
mod request_stream;
pub mod logout;
mod cors;
mod refresh;
mod plain;
pub mod upgrade;
pub mod connection;
