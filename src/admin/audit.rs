//! The audit line of each change: who, what, how many.

use std::fmt;

use super::access::Caller;

/// Writes the line, at the most severe level: no level of the log hides it, and a caller that changes the level does
/// not hide its own change. `detail` has the target of the action and its parameters.
pub(super) fn log(who: Caller, action: &'static str, detail: &dyn fmt::Display, count: usize) {
    tracing::error!(%who, action, %detail, count, "admin");
}
