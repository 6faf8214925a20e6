//! The key sets as another process takes them over, so that it decides about tokens before its first fetch ends.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::KeySets;
use crate::client::key_fetch::BODY_MAX_BYTES;
use crate::policy::key::KeySet;
use crate::policy::live_keys::{KeyLocation, LiveKeys, RemoteKeys};

/// The maximum number of sets that are taken over.
const SETS_MAX: usize = 1024;

/// The last response of one key set. `Debug` omits the URL, whose query may contain a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySetState {
    /// The issuer, if its configuration names the set.
    issuer: Option<String>,
    /// The URL that is asked first.
    url: String,
    body: Vec<u8>,
    /// The time since the fetch.
    age: Duration,
}

impl fmt::Debug for KeySetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySetState").field("age", &self.age).finish_non_exhaustive()
    }
}

impl KeySets {
    /// Returns the sets that have keys, for another process.
    pub fn export(&self, now: Instant) -> Vec<KeySetState> {
        let entries = self.entries();
        let sets = entries.iter().filter_map(|(remote, entry)| export(remote, &entry.fetcher.live, now));
        sets.take(SETS_MAX).collect()
    }

    /// Gives the sets of the configuration that have no keys those of another process, with their age there. They are
    /// fetched at once, too. Returns the number of sets whose response cannot be used.
    pub fn import(&self, moved: &[KeySetState], now: Instant) -> usize {
        let mut unusable = 0;
        for (remote, entry) in &*self.entries() {
            let (issuer, url) = location(remote);
            let is_same = |state: &&KeySetState| state.url == url && state.issuer.as_deref() == issuer;
            let Some(state) = moved.iter().take(SETS_MAX).find(is_same) else { continue };
            // A time that the clock cannot represent is older than any set may be.
            let fetched = now.checked_sub(state.age);
            let keys = Some(&state.body).filter(|body| body.len() <= BODY_MAX_BYTES);
            match (keys.and_then(|body| KeySet::from_server(body).ok()), fetched) {
                (Some(keys), Some(fetched)) => entry.fetcher.live.restore(keys, state.body.clone(), fetched),
                _ => unusable += 1,
            }
        }
        unusable
    }
}

fn export(remote: &RemoteKeys, live: &LiveKeys, now: Instant) -> Option<KeySetState> {
    let (issuer, url) = location(remote);
    let body = live.body()?;
    Some(KeySetState { issuer: issuer.map(str::to_owned), url, body: body.to_vec(), age: live.age(now)? })
}

fn location(remote: &RemoteKeys) -> (Option<&str>, String) {
    let issuer = match &remote.location {
        KeyLocation::Jwks(_) => None,
        KeyLocation::Discovery { issuer, .. } => Some(&**issuer),
    };
    (issuer, remote.location.url().uri().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::jwks;
    use crate::policy::remote::{HttpUrl, Roots};
    use crate::runtime::clock;

    fn remote(path: &str) -> RemoteKeys {
        let location = KeyLocation::Jwks(HttpUrl::parse(&format!("http://localhost/{path}")).unwrap());
        RemoteKeys { location, roots: Roots::System }
    }

    #[test]
    fn another_process_has_the_keys_at_once_with_their_age() {
        let now = clock::now();
        let (old, new) = (KeySets::new(clock::now), KeySets::new(clock::now));
        let body = jwks(&["a"]).into_bytes();
        let live = old.get(&remote("a"));
        live.remember(body.clone());
        live.replace(KeySet::from_server(&body).unwrap(), None, now, 0);
        old.get(&remote("empty"));
        let moved = old.export(now + Duration::from_secs(9));
        let moved: Vec<KeySetState> = postcard::from_bytes(&postcard::to_allocvec(&moved).unwrap()).unwrap();
        assert_eq!(moved.len(), 1);
        assert!(!format!("{moved:?}").contains("localhost"));
        let (same, other) = (new.get(&remote("a")), new.get(&remote("b")));
        let later = now + Duration::from_secs(60);
        assert_eq!(new.import(&moved, later), 0);
        assert_eq!(same.age(later), Some(Duration::from_secs(9)));
        assert_eq!(*same.current().unwrap().keys, KeySet::from_server(&body).unwrap());
        assert!(other.current().is_none());
        assert!(same.schedule().is_pending(clock::now()), "it is fetched at once");
        // They can be passed on again.
        assert_eq!(new.export(later), moved);
    }

    #[test]
    fn a_response_that_cannot_be_used_is_left_out() {
        let now = clock::now();
        let state = |body: &[u8], age| KeySetState {
            issuer: None,
            url: "http://localhost/a".to_owned(),
            body: body.to_vec(),
            age,
        };
        let good = jwks(&["a"]).into_bytes();
        for (moved, unusable) in [
            (state(b"{", Duration::ZERO), 1),
            (state(&vec![b' '; BODY_MAX_BYTES + 1], Duration::ZERO), 1),
            (state(&good, Duration::MAX), 1),
            (state(&good, Duration::ZERO), 0),
        ] {
            let sets = KeySets::new(clock::now);
            let live = sets.get(&remote("a"));
            assert_eq!(sets.import(&[moved], now), unusable);
            assert_eq!(live.current().is_none(), unusable == 1);
        }
    }
}
