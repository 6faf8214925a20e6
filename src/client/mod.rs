//! The HTTP client for requests that Tollgate itself makes, and the exchanges that use it.

pub mod http_client;
pub mod clients;
pub mod forward;

pub use http_client::{ClientError, HttpClient, RequestLimits};
