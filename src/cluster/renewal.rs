//! Tells the other nodes of a fresh token that renews sessions of its client. Each node verifies it by its own rules.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::event::{Operation, OperationKind};
use super::handle::Cluster;

/// A fresh token that another node got.
pub struct SharedToken {
    /// The name of the route.
    pub route: String,
    /// The name of the `[auth]` section.
    pub auth: String,
    /// The token.
    pub token: Zeroizing<String>,
}

/// Shows no token.
impl fmt::Debug for SharedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedToken").field("route", &self.route).field("auth", &self.auth).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    route: String,
    auth: String,
}

impl Cluster {
    /// Tells the other nodes of a fresh token. Returns the number of those that can open it, which have the same secret;
    /// `None` if they do not get it: sessions are not shared, there is no `secret_file` to seal the token, or the server does
    /// not take it.
    pub async fn share_renewal(&self, route: &str, auth: &str, token: &str) -> Option<usize> {
        let seal = self.seal.as_ref().filter(|_| self.shares_sessions())?;
        let text = serde_json::to_string(&Parameters { route: route.to_owned(), auth: auth.to_owned() }).ok()?;
        let payload = seal.seal(&text, token)?;
        let shared = self.share_operation(Operation { kind: OperationKind::Renew, text, payload }).await;
        let nodes =
            shared.inspect_err(|error| tracing::debug!(?error, "the other nodes do not get a fresh token")).ok()?;
        Some(nodes.saturating_sub(self.nodes.with_other_secret()))
    }

    /// Opens the token of another node; `None` if it has another secret.
    pub fn open_renewal(&self, text: &str, payload: &[u8]) -> Option<SharedToken> {
        let token = self.seal.as_ref()?.open(text, payload)?;
        let Parameters { route, auth } = serde_json::from_str(text).ok()?;
        Some(SharedToken { route, auth, token })
    }
}
