//! Tests of leases: nodes with their drivers, a store, and a network between them, in virtual time.

#![allow(clippy::pedantic, reason = "tests are written to be read as tables")]

mod cluster;
mod driver;
mod scenarios;
mod store;
