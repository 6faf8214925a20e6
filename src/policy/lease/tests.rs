//! Tests of leases: nodes with their drivers, a store, and a network between them, in virtual time.

mod cluster;
mod driver;
mod scenarios;
mod store;
