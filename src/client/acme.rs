//! Certificates by ACME (RFC 8555): the certificates in use, their files, and the orders that get and renew them.
//!
//! ACME Renewal Information (RFC 9773) is not used: a certificate is renewed when a third of its lifetime is left.

mod folder;
pub mod schedule;
pub mod challenge;
pub mod refusal;
pub mod held;
mod transport;
mod account;
pub mod order;

pub use self::challenge::{ChallengeKind, Challenges};
pub use self::held::{Held, HeldSections};
pub use self::refusal::Refusal;
