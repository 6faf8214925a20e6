//! Leases of quotas: how the nodes of a cluster share one quota without asking for each cell.
//!
//! Every node enforces a [share](share::Share) of a quota by itself. Without a lease the share is small, and the same on
//! every node. A key that needs more asks the [store](store::LeaseStore) for a lease: a greater share for a short time.
//! The store never leases more than the whole quota. The [driver](driver::LeaseDriver) decides when to ask, and its
//! caller carries the asks and the answers.
//!
//! # Bound
//! With `n` live nodes the shares without a lease are [`STARTER_MILLIONTHS`](share::STARTER_MILLIONTHS) of the quota
//! together, so in any span all nodes pass at most 1.2 times what the quota allows in that span, burst included, and one
//! cell for each node. The following add to it:
//!
//! - A node that dies, or that loses an ask or an answer, leaves at most one burst unreported.
//! - While all nodes cannot reach the store, each uses an `n`th of the quota: together the whole, and at the beginning at
//!   most one burst more.
//! - While `k` of them cannot reach it and the others can, the rate is at most `1 + 0.2 + k / n` times the quota.
//! - A store that has lost its data may lease the quota twice for the time of a lease.
//! - Clients without a count of their own (see [`Counts`](super::counts::Counts)) use the share without a lease.

pub mod driver;
pub mod key;
pub mod share;
pub mod store;

#[cfg(test)]
mod tests;
