//! The audit line of each change: who, what, how many.

use std::fmt;

use super::access::Caller;

/// Writes the line. `detail` has the target of the action and its parameters.
pub(super) fn log(who: Caller, action: &'static str, detail: &dyn fmt::Display, count: usize) {
    tracing::info!(%who, action, %detail, count, "admin");
}
