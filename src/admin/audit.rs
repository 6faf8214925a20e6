//! The audit line of each change: who, what, how many.

use std::fmt;

use super::access::Caller;

/// Writes the line. `detail` says what was changed beyond the action, as the operator gave it.
pub(super) fn log(who: Caller, action: &'static str, detail: &dyn fmt::Display, count: usize) {
    tracing::info!(%who, action, %detail, count, "admin");
}
