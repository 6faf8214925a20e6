//! The server: binds listeners, starts workers, accepts connections, and drains.

pub mod error;
pub mod socket;
pub mod pool;
pub mod worker;
pub mod accept;
pub mod descriptors;
pub mod serve;
pub mod control;
