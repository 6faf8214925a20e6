//! What operators see of what happens.

pub mod log;
pub mod refusals;
pub mod sessions;
