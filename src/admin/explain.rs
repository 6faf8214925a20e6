//! Explains ends of sessions and rejections of requests to operators: the rule in words, what to change, and the
//! settings that decide.
//!
//! The explanations are made from the same values as log lines, and contain no token, claim value or query.

mod facts;
mod close_codes;
mod violations;
mod ends;
mod openings;
mod requests;
mod paths;
mod tokens;
mod logouts;
mod upstreams;
mod rejections;

pub(super) use self::ends::end;
pub(super) use self::facts::{Explanation, Facts};
pub(super) use self::rejections::rejection;

#[cfg(test)]
mod tests;
