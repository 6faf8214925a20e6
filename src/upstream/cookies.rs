//! The cookies of `balance = "sticky_cookie"`: the server that a request names, and the cookie of the server that it got.

use http::{HeaderMap, HeaderValue};

use crate::balance::{Balance, Pool, ServerSession, StickyKey};
use crate::policy::credential;
use crate::runtime::entropy::random;

/// The number of cookies of one name that are compared with each server. Browsers send several if their paths differ.
const COOKIES_MAX: usize = 4;

/// Reads and writes the cookies of all upstreams.
#[derive(Debug)]
pub(super) struct Cookies {
    /// The key of upstreams without one of their own.
    key: StickyKey,
}

impl Cookies {
    /// Creates the state with a random key, so that the cookies of another process are not valid.
    pub(super) fn new() -> Self {
        Self { key: StickyKey::new(&random::<32>()) }
    }

    /// Returns the index of the server that a cookie of the request names.
    pub(super) fn server(&self, pool: &Pool, headers: &HeaderMap) -> Option<usize> {
        let Balance::StickyCookie(cookie) = &pool.config().balance else { return None };
        let tags = pool.tags(&self.key)?;
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
        let value = pool.tags(&self.key)?.get(index)?;
        let mut cookie = HeaderValue::from_str(&cookie.set_cookie(value, is_tls)).ok()?;
        // `Debug` omits it.
        cookie.set_sensitive(true);
        Some(cookie)
    }
}
