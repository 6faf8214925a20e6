//! The HTTP client for requests that Tollgate itself makes, and the exchanges that use it.

mod resolver;
pub mod roots;
mod connector;
pub mod short_body;
pub mod http_client;
pub mod clients;
pub mod forward;
pub mod key_fetch;
mod key_log;
pub mod key_sets;
pub mod acme;

#[cfg(test)]
mod tests;

pub use http_client::{ClientError, HttpClient, RequestLimits};
pub use key_log::KeyUser;
pub use key_sets::{KeySets, Waited};
