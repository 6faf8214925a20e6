//! Shared parts of the tests of the pure core: a relay in memory with virtual time, a frame decoder that is independent
//! of the crate, and a small random number generator.

// Each test binary compiles its own copy and uses only a part of it.
#![allow(dead_code)]

pub mod endpoint;
pub mod random;
pub mod relay;
pub mod wire;
