//! The cookies of `balance = "sticky_cookie"`: the server that a request names, and the cookie of the server that it got.

use std::fmt;
use std::sync::OnceLock;

use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::balance::{Balance, Pool, ServerSession, StickyKey};
use crate::policy::credential;
use crate::runtime::entropy::random;

/// The number of cookies of one name that are compared with each server. Browsers send several if their paths differ.
const COOKIES_MAX: usize = 4;

/// Reads and writes the cookies of all upstreams. The key is random, so that cookies of a process that is not the one
/// before are not valid.
#[derive(Default)]
pub(super) struct Cookies {
    /// The secret of the key of upstreams without one of their own, and the key.
    key: OnceLock<(Zeroizing<[u8; 32]>, StickyKey)>,
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

impl Cookies {
    /// Uses the key of the process before this one. Has no effect after the first cookie.
    pub(super) fn import(&self, secret: Zeroizing<[u8; 32]>) {
        let key = StickyKey::new(&*secret);
        let _ = self.key.set((secret, key));
    }

    /// Returns the secret for the process that follows this one.
    pub(super) fn export(&self) -> Zeroizing<[u8; 32]> {
        self.secret_and_key().0.clone()
    }

    fn key(&self) -> &StickyKey {
        &self.secret_and_key().1
    }

    fn secret_and_key(&self) -> &(Zeroizing<[u8; 32]>, StickyKey) {
        self.key.get_or_init(|| {
            let secret = Zeroizing::new(random());
            let key = StickyKey::new(&*secret);
            (secret, key)
        })
    }

    /// Returns the index of the server that a cookie of the request names.
    pub(super) fn server(&self, pool: &Pool, headers: &HeaderMap) -> Option<usize> {
        let Balance::StickyCookie(cookie) = &pool.config().balance else { return None };
        let tags = pool.tags(self.key())?;
        credential::cookies(headers, &cookie.name).take(COOKIES_MAX).find_map(|value| tags.find(value))
    }

    /// Returns the value of `Set-Cookie` for a session at a server of the pool, unless the client has `sent` the cookie of
    /// this server.
    pub(super) fn set(
        &self,
        pool: &Pool,
        session: &ServerSession,
        sent: Option<usize>,
        is_tls: bool,
    ) -> Option<HeaderValue> {
        let Balance::StickyCookie(cookie) = &pool.config().balance else { return None };
        let index = pool.servers().position(|server| session.is_of(server)).filter(|index| sent != Some(*index))?;
        let value = pool.tags(self.key())?.get(index)?;
        let mut cookie = HeaderValue::from_str(&cookie.set_cookie(value, is_tls)).ok()?;
        // `Debug` omits it.
        cookie.set_sensitive(true);
        Some(cookie)
    }
}
