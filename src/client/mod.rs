//! The HTTP client for requests that Tollgate itself makes, and the key sets that are fetched with it.

pub mod http_client;

pub use http_client::{ClientError, HttpClient, RequestLimits};
