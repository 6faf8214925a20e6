//! The tokens that one verifier has verified, so that a client that comes back with the same token, as all do at once after
//! an outage, costs a hash and not another signature.
//!
//! What is kept of a token is its SHA-256 and its claims, never the token itself. That the signature holds is what is
//! remembered, and no more: `exp` and `nbf` are held against the clock at every use, and issuer and audience are looked at
//! again. What was refused is not remembered, so that nobody without a token that holds can fill the memory. The memory is
//! part of its verifier and goes with it: no key vouches for a token after the key itself is gone.
//!
//! Two tokens with one hash would be a collision of SHA-256. How long a look-up takes tells nothing about other tokens: it
//! depends on hashes, which nobody can choose, and on whether this very token came before, which only who has it can ask.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use serde_json::{Map, Value};

/// About how much memory the tokens of one verifier may take. That is room for some 8,000 tokens with a payload of 300
/// bytes and eight claims, and no room that is not used is kept.
pub const MEMORY_MAX_BYTES: usize = 16 * 1024 * 1024;
/// What a token takes beside its claims.
const TOKEN_BYTES: usize = 768;
/// How much more the claims take than their text, and what each value takes beside that, however short it is.
const CLAIMS_FACTOR: usize = 2;
const VALUE_BYTES: usize = 96;
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

/// About how much memory the claims take that stand in this payload.
pub fn room(payload: &[u8]) -> usize {
    // A value follows each of these; where they stand in a string it is counted too many.
    let values = payload.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    CLAIMS_FACTOR * payload.len() + VALUE_BYTES * values
}

/// The tokens. When there is no room for another one, the half goes that was not used since it was a half.
pub struct Verified(Mutex<Tokens>);

struct Tokens {
    /// The tokens that were used last, and those of the half before.
    young: HashMap<TokenHash, Token>,
    old: HashMap<TokenHash, Token>,
    /// How much memory the young take.
    young_bytes: usize,
    young_max_bytes: usize,
    sweep_at: Duration,
}

struct Token {
    members: Arc<Map<String, Value>>,
    bytes: usize,
    /// When it is of no use any more, counted from the Unix epoch.
    ends: Duration,
}

impl Verified {
    /// None yet.
    pub fn new() -> Self {
        Self::with_room(MEMORY_MAX_BYTES)
    }

    fn with_room(max_bytes: usize) -> Self {
        Self(Mutex::new(Tokens {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            young_max_bytes: max_bytes / 2,
            sweep_at: Duration::ZERO,
        }))
    }

    /// The members of the payload of a token that was verified before.
    pub fn get(&self, hash: &TokenHash) -> Option<Arc<Map<String, Value>>> {
        self.with(|tokens| {
            if let Some(token) = tokens.young.get(hash) {
                return Some(Arc::clone(&token.members));
            }
            let token = tokens.old.remove(hash)?;
            let members = Arc::clone(&token.members);
            tokens.insert(*hash, token);
            Some(members)
        })
    }

    /// Remembers a token that holds `now`: the members of its payload, the room that they take, and when it ends.
    pub fn insert(
        &self,
        hash: TokenHash,
        members: Arc<Map<String, Value>>,
        room: usize,
        ends: Duration,
        now: Duration,
    ) {
        let bytes = TOKEN_BYTES + room;
        self.with(|tokens| {
            tokens.sweep(now);
            tokens.insert(hash, Token { members, bytes, ends });
        });
    }

    /// The maps are whole after every step, so a panic of another holder leaves nothing half done.
    fn with<T>(&self, act: impl FnOnce(&mut Tokens) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tokens {
    fn insert(&mut self, hash: TokenHash, token: Token) {
        if self.young_bytes + token.bytes > self.young_max_bytes {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += token.bytes;
        // Two workers may have verified the same token.
        if let Some(same) = self.young.insert(hash, token) {
            self.young_bytes -= same.bytes;
        }
    }

    /// Drops those that have expired, at most once in a while: all others wait meanwhile.
    fn sweep(&mut self, now: Duration) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.saturating_add(SWEEP_PAUSE);
        self.old.retain(|_, token| now < token.ends);
        self.young.retain(|_, token| now < token.ends);
        self.young_bytes = self.young.values().map(|token| token.bytes).sum();
    }
}

impl Default for Verified {
    fn default() -> Self {
        Self::new()
    }
}

/// How many, not which.
impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (young, old) = self.with(|tokens| (tokens.young.len(), tokens.old.len()));
        f.debug_struct("Verified").field("young", &young).field("old", &old).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn insert(verified: &Verified, name: &str, room: usize, ends: Duration, now: Duration) {
        let members = Map::from_iter([("sub".to_owned(), Value::from(name))]);
        verified.insert(TokenHash::of(name), Arc::new(members), room, ends, now);
    }

    fn known(verified: &Verified, name: &str) -> bool {
        let members = verified.get(&TokenHash::of(name));
        assert!(members.as_ref().is_none_or(|members| members["sub"] == name));
        members.is_some()
    }

    fn bytes(verified: &Verified) -> usize {
        verified.with(|tokens| {
            assert_eq!(tokens.young_bytes, tokens.young.values().map(|token| token.bytes).sum::<usize>());
            tokens.young.values().chain(tokens.old.values()).map(|token| token.bytes).sum()
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
        let size = TOKEN_BYTES + 16;
        let verified = Verified::with_room(size * 8);
        insert(&verified, "in use", 16, NOW + MINUTE, NOW);
        insert(&verified, "unused", 16, NOW + MINUTE, NOW);
        for number in 0..1_000 {
            insert(&verified, &number.to_string(), 16, NOW + MINUTE, NOW);
            assert!(known(&verified, "in use") && known(&verified, &number.to_string()));
            assert!(bytes(&verified) <= size * 8);
        }
        assert!(!known(&verified, "unused"));
        assert!(!known(&verified, "1"));
    }

    #[test]
    fn short_values_take_room() {
        assert_eq!(room(b"{}"), 2 * 2 + 96);
        assert_eq!(room(br#"{"a":[0,0,0],"b":"c"}"#), 2 * 21 + 96 * 5);
    }

    #[test]
    fn one_token_is_counted_once() {
        let verified = Verified::new();
        for _ in 0..3 {
            insert(&verified, "a", 100, NOW + MINUTE, NOW);
        }
        assert_eq!(bytes(&verified), TOKEN_BYTES + 100);
    }

    #[test]
    fn memory_is_bounded_for_tokens_of_any_size() {
        let verified = Verified::with_room(100_000);
        for number in 0..2_000 {
            insert(&verified, &number.to_string(), number * 7919 % 8192, NOW + MINUTE, NOW);
            assert!(bytes(&verified) <= 100_000);
        }
    }

    #[test]
    fn what_has_expired_goes() {
        let verified = Verified::new();
        insert(&verified, "short", 16, NOW + MINUTE / 2, NOW);
        insert(&verified, "long", 16, NOW + 3 * MINUTE, NOW);
        // Not at once: the verifier asks the clock at every use.
        insert(&verified, "other", 16, NOW + 3 * MINUTE, NOW + Duration::from_secs(59));
        assert!(known(&verified, "short"));
        insert(&verified, "another", 16, NOW + 3 * MINUTE, NOW + MINUTE);
        assert!(!known(&verified, "short") && known(&verified, "long") && known(&verified, "other"));
        assert_eq!(bytes(&verified), 3 * (TOKEN_BYTES + 16));
    }

    #[test]
    fn nothing_of_a_token_is_printed() {
        let verified = Verified::new();
        insert(&verified, "ada", 16, NOW + MINUTE, NOW);
        assert_eq!(format!("{verified:?}"), "Verified { young: 1, old: 0 }");
    }
}
