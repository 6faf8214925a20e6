//! May this request pass, and on what terms: pure decisions over facts, with time as an argument.

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
pub mod limits;
pub mod rejection;
pub mod route;
pub mod admission;
