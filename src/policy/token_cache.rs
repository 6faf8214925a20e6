//! The tokens that one verifier has verified, so that a client that comes back with the same token, as all do at once after
//! an outage, costs a hash and not another signature.
//!
//! An entry holds the SHA-256 of a token and those of its claims that are read, never the token itself. It says that the
//! signature holds, and no more: `exp` and `nbf` are held against the clock at every use, and issuer and audience are looked
//! at again. A refused token leaves no entry, so that nobody without a token that holds can fill the memory. The memory is
//! part of its verifier and goes with it: no key vouches for a token after the key itself is gone.
//!
//! Two tokens with one hash would be a collision of SHA-256. How long a look-up takes tells nothing about other tokens: it
//! depends on hashes, which nobody can choose, and on whether this very token came before, which only who has it can ask.

use std::collections::HashMap;
use std::fmt;
use std::mem::{self, size_of};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;

use super::members::{Members, block};

/// The most memory that the tokens of one verifier take. That is room for some 14,000 tokens of ten kept claims, as
/// `tests/token_memory.rs` measures, and no room that is not used is kept.
pub const MEMORY_MAX_BYTES: usize = 16 * 1024 * 1024;
/// What a token takes beside its claims: its place in a map, of which seven sixteenths are in use when the map has just
/// grown, and half of one more while the map moves into a larger one; and the counters of the `Arc`.
const TOKEN_BYTES: usize = (size_of::<(TokenHash, Token)>() + 1) * 16 / 7 * 3 / 2 + size_of::<[usize; 2]>() * 2;
/// How often those that have expired are looked for.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// What stands for a token: its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; digest::SHA256_OUTPUT_LEN]);

impl TokenHash {
    /// The hash of a whole token, its signature included.
    pub fn of(token: &str) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        for (to, from) in hash.iter_mut().zip(digest::digest(&digest::SHA256, token.as_bytes()).as_ref()) {
            *to = *from;
        }
        Self(hash)
    }
}

/// The tokens. When there is no room for another one, the half goes that was not used since it was a half.
pub struct TokenCache(Mutex<Tokens>);

struct Tokens {
    /// The tokens that were used last, and those of the half before.
    current: HashMap<TokenHash, Token>,
    previous: HashMap<TokenHash, Token>,
    /// How much memory the young take.
    current_bytes: usize,
    generation_max_bytes: usize,
    sweep_at: Duration,
}

struct Token {
    members: Arc<Members>,
    bytes: usize,
    /// When it is of no use any more, counted from the Unix epoch.
    ends: Duration,
}

impl TokenCache {
    /// None yet.
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
        }))
    }

    /// The members of the payload of a token that was verified before.
    pub(super) fn get(&self, hash: &TokenHash) -> Option<Arc<Members>> {
        let (members, _gone) = self.with(|tokens| {
            if let Some(token) = tokens.current.get(hash) {
                return Some((Arc::clone(&token.members), HashMap::new()));
            }
            let token = tokens.previous.remove(hash)?;
            let members = Arc::clone(&token.members);
            Some((members, tokens.insert(*hash, token)))
        })?;
        Some(members)
    }

    /// Remembers a token that holds `now`: the members of its payload, and when it ends.
    pub(super) fn insert(&self, hash: TokenHash, members: Arc<Members>, ends: Duration, now: Duration) {
        let bytes = TOKEN_BYTES + block(size_of::<Members>()) + members.heap_bytes();
        let gone = self.with(|tokens| {
            tokens.sweep(now);
            tokens.insert(hash, Token { members, bytes, ends })
        });
        drop(gone);
    }

    /// The maps are whole after every step, so a panic of another holder leaves nothing half done.
    fn with<T>(&self, act: impl FnOnce(&mut Tokens) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tokens {
    /// Returns the half that made room, so that the caller frees it without the lock.
    fn insert(&mut self, hash: TokenHash, token: Token) -> HashMap<TokenHash, Token> {
        let mut gone = HashMap::new();
        if token.bytes > self.generation_max_bytes {
            return gone;
        }
        if self.current_bytes + token.bytes > self.generation_max_bytes {
            gone = mem::replace(&mut self.previous, mem::take(&mut self.current));
            self.current_bytes = 0;
        }
        self.current_bytes += token.bytes;
        // Two workers may have verified the same token.
        if let Some(same) = self.current.insert(hash, token) {
            self.current_bytes -= same.bytes;
        }
        gone
    }

    /// Drops those that have expired, at most once in a while: all others wait meanwhile.
    fn sweep(&mut self, now: Duration) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.saturating_add(SWEEP_PAUSE);
        for tokens in [&mut self.previous, &mut self.current] {
            tokens.retain(|_, token| now < token.ends);
            // The count assumes that a map has only the capacity that its tokens need.
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

/// How many, not which.
impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (current, previous) = self.with(|tokens| (tokens.current.len(), tokens.previous.len()));
        f.debug_struct("Verified").field("young", &current).field("old", &previous).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::members::{Claim, Wanted};
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A subject of 8 bytes, and another claim of this length.
    fn members(name: &str, length: usize) -> Members {
        let payload = format!(r#"{{"sub":"{name:8}","pad":"{}"}}"#, "x".repeat(length));
        Members::parse(payload.as_bytes(), &Wanted::new(["sub", "pad"], [])).unwrap()
    }

    fn size(length: usize) -> usize {
        TOKEN_BYTES + block(size_of::<Members>()) + members("", length).heap_bytes()
    }

    fn insert(token_cache: &TokenCache, name: &str, length: usize, ends: Duration, now: Duration) {
        token_cache.insert(TokenHash::of(name), Arc::new(members(name, length)), ends, now);
    }

    fn known(token_cache: &TokenCache, name: &str) -> bool {
        let members = token_cache.get(&TokenHash::of(name));
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
    fn a_hash_is_of_every_byte() {
        assert_eq!(TokenHash::of("a.b.c"), TokenHash::of("a.b.c"));
        for other in ["a.b.C", "a.b.c ", "a.b.", ""] {
            assert_ne!(TokenHash::of("a.b.c"), TokenHash::of(other));
        }
    }

    #[test]
    fn those_in_use_stay_and_the_others_make_room() {
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
        // One that is larger than a half is not kept, and drives nothing out.
        let before = bytes(&token_cache);
        insert(&token_cache, "huge", 50_000, NOW + MINUTE, NOW);
        assert!(!known(&token_cache, "huge") && bytes(&token_cache) == before);
    }

    #[test]
    fn what_has_expired_goes() {
        let token_cache = TokenCache::new();
        insert(&token_cache, "short", 16, NOW + MINUTE / 2, NOW);
        insert(&token_cache, "long", 16, NOW + 3 * MINUTE, NOW);
        // Not at once: the verifier asks the clock at every use.
        insert(&token_cache, "other", 16, NOW + 3 * MINUTE, NOW + Duration::from_secs(59));
        assert!(known(&token_cache, "short"));
        insert(&token_cache, "another", 16, NOW + 3 * MINUTE, NOW + MINUTE);
        assert!(!known(&token_cache, "short") && known(&token_cache, "long") && known(&token_cache, "other"));
        assert_eq!(bytes(&token_cache), 3 * size(16));
    }

    #[test]
    fn nothing_of_a_token_is_printed() {
        let token_cache = TokenCache::new();
        insert(&token_cache, "ada", 16, NOW + MINUTE, NOW);
        assert_eq!(format!("{token_cache:?}"), "Verified { young: 1, old: 0 }");
    }
}
