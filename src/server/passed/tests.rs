//! Tests of `passed`.
