//! Caches the verified tokens of one verifier: a client that reconnects with the same token, as all clients do at once
//! after an outage, costs a hash instead of another signature check.
//!
//! An entry contains the SHA-256 of a token and its kept claims, never the token itself. It proves only that the
//! signature is valid: `exp` and `nbf` are checked against the clock at every use, and issuer and audience are checked
//! again. A rejected token is not cached, so a client without a valid token cannot fill the memory. The cache is part
//! of its verifier and is dropped with it: no entry outlives the keys that verified it.
//!
//! Two tokens with the same hash would be a collision of SHA-256. The time of a look-up reveals nothing about other
//! tokens: it depends on hashes, which a client cannot choose, and on whether this token is cached, which only its
//! holder can test.

use std::collections::HashMap;
use std::fmt;
use std::mem::{self, size_of};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;

use super::claims::Signer;
use super::members::{Members, block};

/// The maximum memory of the cached tokens of one verifier: enough for about 14,000 tokens of ten kept claims, as
/// `tests/token_memory.rs` measures. Memory is allocated only as tokens need it.
pub const MEMORY_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The memory of a token in addition to its claims: its slot in a map, of which seven sixteenths are in use when the
/// map has just grown, and half as much again while the map moves into a larger one; and the counters of the `Arc`.
const TOKEN_BYTES: usize = (size_of::<(TokenHash, Token)>() + 1) * 16 / 7 * 3 / 2 + size_of::<[usize; 2]>() * 2;
/// The minimum time between two sweeps for expired tokens.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// The key of a token in the cache: its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; digest::SHA256_OUTPUT_LEN]);

impl TokenHash {
    /// Hashes a whole token, including its signature.
    pub fn of(token: &str) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        for (to, from) in hash.iter_mut().zip(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()) {
            *to = *from;
        }
        Self(hash)
    }
}

/// A cache of two generations. When the current one is full it becomes the previous one, and the old previous one is
/// dropped. A previous token that is used moves to the current generation.
pub struct TokenCache(Mutex<Tokens>);

struct Tokens {
    /// The tokens that were added or used since the generation began.
    current: HashMap<TokenHash, Token>,
    /// The other tokens of the generation before.
    previous: HashMap<TokenHash, Token>,
    /// The memory of the current generation.
    current_bytes: usize,
    generation_max_bytes: usize,
    sweep_at: Duration,
    /// The latest time at which a token expires of those that were ever added.
    latest_end: Duration,
}

struct Token {
    members: Arc<Members>,
    signer: Signer,
    bytes: usize,
    /// The time at which the token expires, with the leeway, counted from the Unix epoch.
    ends: Duration,
}

/// The kept claims of a token, and the key that verified it.
pub(super) type Verified = (Arc<Members>, Signer);

impl TokenCache {
    /// Creates an empty cache.
    pub fn new() -> Self {
        Self::with_capacity(MEMORY_MAX_BYTES)
    }

    fn with_capacity(max_bytes: usize) -> Self {
        Self(Mutex::new(Tokens {
            current: HashMap::new(),
            previous: HashMap::new(),
            current_bytes: 0,
            generation_max_bytes: max_bytes / 2,
            sweep_at: Duration::ZERO,
            latest_end: Duration::ZERO,
        }))
    }

    /// Returns the kept claims of a token that was verified before, and the key that verified it.
    pub(super) fn get(&self, hash: &TokenHash) -> Option<Verified> {
        let verified = |token: &Token| (Arc::clone(&token.members), token.signer);
        let (verified, _evicted) = self.with(|tokens| {
            if let Some(token) = tokens.current.get(hash) {
                return Some((verified(token), HashMap::new()));
            }
            let token = tokens.previous.remove(hash)?;
            Some((verified(&token), tokens.insert(*hash, token)))
        })?;
        Some(verified)
    }

    /// Adds a token that is valid at `now`, and the time at which it expires.
    pub(super) fn insert(&self, hash: TokenHash, (members, signer): Verified, ends: Duration, now: Duration) {
        let bytes = TOKEN_BYTES + block(size_of::<Members>()) + members.heap_bytes();
        let evicted = self.with(|tokens| {
            tokens.sweep(now);
            tokens.latest_end = tokens.latest_end.max(ends);
            tokens.insert(hash, Token { members, signer, bytes, ends })
        });
        drop(evicted);
    }

    /// Returns the latest time at which one of the tokens that were added expires, with the leeway, since the Unix
    /// epoch.
    pub(super) fn latest_end(&self) -> Duration {
        self.with(|tokens| tokens.latest_end)
    }

    /// Runs `act` with the lock held. The maps are consistent after every step, so a poisoned lock is usable.
    fn with<T>(&self, act: impl FnOnce(&mut Tokens) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tokens {
    /// Returns the generation that was dropped, so that the caller frees it after it releases the lock.
    fn insert(&mut self, hash: TokenHash, token: Token) -> HashMap<TokenHash, Token> {
        let mut evicted = HashMap::new();
        if token.bytes > self.generation_max_bytes {
            return evicted;
        }
        if self.current_bytes + token.bytes > self.generation_max_bytes {
            evicted = mem::replace(&mut self.previous, mem::take(&mut self.current));
            self.current_bytes = 0;
        }
        self.current_bytes += token.bytes;
        // Two workers may have verified the same token.
        if let Some(same) = self.current.insert(hash, token) {
            self.current_bytes -= same.bytes;
        }
        evicted
    }

    /// Removes expired tokens, at most once per [`SWEEP_PAUSE`]: other users of the cache wait for the lock meanwhile.
    fn sweep(&mut self, now: Duration) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.saturating_add(SWEEP_PAUSE);
        for tokens in [&mut self.previous, &mut self.current] {
            tokens.retain(|_, token| now < token.ends);
            // `TOKEN_BYTES` assumes that a map has only the capacity that its tokens need.
            tokens.shrink_to_fit();
        }
        self.current_bytes = self.current.values().map(|token| token.bytes).sum();
    }
}

impl Default for TokenCache {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows the number of tokens only.
impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (current, previous) = self.with(|tokens| (tokens.current.len(), tokens.previous.len()));
        f.debug_struct("TokenCache").field("current", &current).field("previous", &previous).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::claim_path::ClaimPath;
    use super::super::members::{Claim, Wanted};
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A subject of 8 bytes, and another claim of `length` bytes.
    fn members(name: &str, length: usize) -> Members {
        let payload = format!(r#"{{"sub":"{name:8}","pad":"{}"}}"#, "x".repeat(length));
        Members::parse(payload.as_bytes(), &Wanted::new(["sub", "pad"].map(ClaimPath::registered), [])).unwrap()
    }

    fn size(length: usize) -> usize {
        TOKEN_BYTES + block(size_of::<Members>()) + members("", length).heap_bytes()
    }

    fn insert(token_cache: &TokenCache, name: &str, length: usize, ends: Duration, now: Duration) {
        let verified = (Arc::new(members(name, length)), Signer::of_test());
        token_cache.insert(TokenHash::of(name), verified, ends, now);
    }

    fn known(token_cache: &TokenCache, name: &str) -> bool {
        let members = token_cache.get(&TokenHash::of(name)).map(|(members, _)| members);
        let subject = members.as_ref().map(|members| members.get("sub").and_then(Claim::as_text).unwrap().trim_end());
        assert!(subject.is_none_or(|subject| subject == name));
        members.is_some()
    }

    fn bytes(token_cache: &TokenCache) -> usize {
        token_cache.with(|tokens| {
            assert_eq!(tokens.current_bytes, tokens.current.values().map(|token| token.bytes).sum::<usize>());
            tokens.current.values().chain(tokens.previous.values()).map(|token| token.bytes).sum()
        })
    }

    #[test]
    fn the_hash_covers_every_byte() {
        assert_eq!(TokenHash::of("a.b.c"), TokenHash::of("a.b.c"));
        for other in ["a.b.C", "a.b.c ", "a.b.", ""] {
            assert_ne!(TokenHash::of("a.b.c"), TokenHash::of(other));
        }
    }

    #[test]
    fn used_tokens_stay_and_unused_tokens_are_evicted() {
        let size = size(16);
        let token_cache = TokenCache::with_capacity(size * 8);
        insert(&token_cache, "in use", 16, NOW + MINUTE, NOW);
        insert(&token_cache, "unused", 16, NOW + MINUTE, NOW);
        for number in 0..1_000 {
            insert(&token_cache, &number.to_string(), 16, NOW + MINUTE, NOW);
            assert!(known(&token_cache, "in use") && known(&token_cache, &number.to_string()));
            assert!(bytes(&token_cache) <= size * 8);
        }
        assert!(!known(&token_cache, "unused"));
        assert!(!known(&token_cache, "1"));
    }

    #[test]
    fn the_latest_end_is_that_of_all_tokens() {
        let token_cache = TokenCache::new();
        assert_eq!(token_cache.latest_end(), Duration::ZERO);
        insert(&token_cache, "long", 16, NOW + 3 * MINUTE, NOW);
        insert(&token_cache, "short", 16, NOW + MINUTE, NOW);
        insert(&token_cache, "later", 16, NOW + 10 * MINUTE, NOW + 5 * MINUTE);
        assert_eq!(token_cache.latest_end(), NOW + 10 * MINUTE);
    }

    #[test]
    fn one_token_is_counted_once() {
        let token_cache = TokenCache::new();
        for _ in 0..3 {
            insert(&token_cache, "a", 100, NOW + MINUTE, NOW);
        }
        assert_eq!(bytes(&token_cache), size(100));
    }

    #[test]
    fn memory_is_bounded_for_tokens_of_any_size() {
        let token_cache = TokenCache::with_capacity(100_000);
        for number in 0..2_000 {
            insert(&token_cache, &number.to_string(), number * 7919 % 8192, NOW + MINUTE, NOW);
            assert!(bytes(&token_cache) <= 100_000);
        }
        // A token that is larger than a generation is not cached, and evicts no other.
        let before = bytes(&token_cache);
        insert(&token_cache, "huge", 50_000, NOW + MINUTE, NOW);
        assert!(!known(&token_cache, "huge") && bytes(&token_cache) == before);
    }

    #[test]
    fn expired_tokens_are_swept() {
        let token_cache = TokenCache::new();
        insert(&token_cache, "short", 16, NOW + MINUTE / 2, NOW);
        insert(&token_cache, "long", 16, NOW + 3 * MINUTE, NOW);
        // The sweep is not due yet. The verifier checks `exp` at every use.
        insert(&token_cache, "other", 16, NOW + 3 * MINUTE, NOW + Duration::from_secs(59));
        assert!(known(&token_cache, "short"));
        insert(&token_cache, "another", 16, NOW + 3 * MINUTE, NOW + MINUTE);
        assert!(!known(&token_cache, "short") && known(&token_cache, "long") && known(&token_cache, "other"));
        assert_eq!(bytes(&token_cache), 3 * size(16));
    }

    #[test]
    fn debug_shows_numbers_only() {
        let token_cache = TokenCache::new();
        insert(&token_cache, "ada", 16, NOW + MINUTE, NOW);
        assert_eq!(format!("{token_cache:?}"), "TokenCache { current: 1, previous: 0 }");
    }
}
