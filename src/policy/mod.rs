//! Decides whether a request is admitted and under which limits, without I/O: facts and time are arguments.

pub mod path;
pub mod pattern;
pub mod host;
pub mod origin;
pub mod address;
pub mod credential;
pub mod key;
pub mod members;
pub mod token_cache;
pub mod token;
pub mod claims;
pub mod header_names;
pub mod quota;
pub mod byte_quota;
pub mod counts;
pub mod slots;
pub mod session_slots;
pub mod limits;
pub mod rejection;
pub mod request;
pub mod route;
pub mod counters;
pub mod client_slots;
pub mod grant;
pub mod admission;
pub mod recheck;
