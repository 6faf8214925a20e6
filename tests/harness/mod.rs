//! What the tests of the pure core share: a relay in memory with virtual time, a decoder that knows the RFC and not our
//! code, and a small source of random numbers.

// Each test binary compiles its own copy and uses a part of it.
#![allow(dead_code)]

pub mod endpoint;
pub mod random;
pub mod relay;
pub mod wire;
