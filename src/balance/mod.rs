//! Pools of servers, without sockets, a clock or randomness of their own: the choice of a server for a request, the state
//! of each, and the times of its checks.

pub mod standing;
pub mod health;
pub mod tls;
pub mod early;
pub mod checks;
pub mod schedule;
pub mod sticky;
pub mod queue;
pub mod config;
pub mod discovery;
pub mod hash;
pub mod pacing;
pub mod rebalance;
mod overrides;
mod loss;
pub mod server;
pub mod attempt;
pub mod choice;
pub mod rotation;
pub mod retry;
pub mod pool;
pub mod paced;
pub mod moved;
#[cfg(test)]
pub(crate) mod tests;

pub use attempt::Attempt;
pub use checks::{Check, CheckChange, CheckConfig};
pub use choice::{NoServer, Picked};
pub use config::{AdmitRate, Balance, Discover, HashSource, ServerAddress, ServerConfig, UpstreamConfig, UpstreamLoss};
pub use health::HealthConfig;
pub use overrides::{OperatorState, ServerChange};
pub use pacing::ClosingRate;
pub use pool::{PendingRequest, Pool};
pub use rebalance::Rebalance;
pub use server::{Server, ServerSession};
pub use standing::{Change, Failure};
pub use sticky::{SameSite, StickyCookie, StickyKey};
pub use tls::{ClientCertificate, Roots, TlsMinVersion, UpstreamTls};
