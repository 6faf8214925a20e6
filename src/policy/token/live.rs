//! The keys of a verifier: those of a file, or those that were fetched last.

use std::sync::Arc;
use std::time::Instant;

use super::super::key::KeySet;
use super::super::live_keys::{KeyNeed, KeySource, KeysUnavailable, LiveKeys};
use super::{Header, TokenHash, TokenRecord, Verifier, decode};

impl Verifier {
    /// Returns the keys that are fetched; `None` if they are those of a file.
    pub fn live_keys(&self) -> Option<&Arc<LiveKeys>> {
        self.live.as_ref()
    }

    /// Returns the keys, however old; `None` if none were fetched yet.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        match &self.config.keys {
            KeySource::Fixed(keys) => Some(Arc::clone(keys)),
            KeySource::Remote { .. } => Some(Arc::clone(&self.live.as_ref()?.current()?.keys)),
        }
    }

    /// Whether there are keys that may be used: keys of a file always; fetched keys until `keys_stale_for` has passed
    /// since the last successful fetch.
    fn has_usable_keys(&self, now: Instant) -> bool {
        let KeySource::Remote { stale_for, .. } = &self.config.keys else { return true };
        self.live.as_ref().and_then(|live| live.age(now)).is_some_and(|age| age < *stale_for)
    }

    /// Checks that there are keys that may be used.
    ///
    /// # Errors
    /// If none were fetched yet, or the last successful fetch was `keys_stale_for` ago.
    pub fn check_keys(&self, now: Instant) -> Result<(), KeysUnavailable> {
        if self.has_usable_keys(now) {
            return Ok(());
        }
        let wait = self.live.as_ref().map(|live| live.schedule().retry_after_secs(now));
        Err(KeysUnavailable { retry_after_secs: wait.unwrap_or(1) })
    }

    /// Returns the fetch that a token needs. Only a token with a `kid` that no key has needs a certain key, if its
    /// algorithm is allowed (one that is malformed would be rejected after any fetch) and no key without `kid` verifies
    /// it.
    pub fn key_need(&self, token: &str, now: Instant) -> KeyNeed {
        if self.live.is_none() {
            return KeyNeed::Nothing;
        }
        let Some(keys) = self.keys().filter(|_| self.has_usable_keys(now)) else { return KeyNeed::Keys };
        let header = token.split_once('.').filter(|_| token.len() <= self.config.max_bytes);
        let header = header.and_then(|(header, _)| Header::parse(&decode(header).ok()?).ok());
        let names_unknown_key = header.is_some_and(|Header { algorithm, kid }| {
            let is_allowed = self.config.algorithms.contains(&algorithm);
            is_allowed && kid.is_some_and(|kid| !keys.names(&kid))
        });
        if names_unknown_key && !self.is_signed(&keys, token) { KeyNeed::NamedKey } else { KeyNeed::Nothing }
    }

    /// Whether a key of the set signed the token, which is not too long.
    fn is_signed(&self, keys: &KeySet, token: &str) -> bool {
        let known = self.token_cache.get(&TokenHash::of(token));
        known.is_some_and(|(_, signer)| keys.has(signer.key, signer.algorithm))
            || self.verify_parts(keys, token).is_ok()
    }

    /// Whether the key that verified a token is not in the set any more. Before the first fetch, no key counts as lost:
    /// the sessions that are open then are checked when the keys arrive.
    pub fn lost_key_of(&self, token: &TokenRecord) -> bool {
        self.keys().is_some_and(|keys| !keys.has(token.signer.key, token.signer.algorithm))
    }
}
