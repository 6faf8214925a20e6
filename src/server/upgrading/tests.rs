//! Tests of `upgrading`.
