//! The parts of an admission that a session keeps: the facts that it was admitted with, and its slots.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::client_slots::ClientSlots;
use super::counters::LimitedClient;
use super::forward::Answered;
use super::pattern::Params;
use super::revocation::entry::Identity;
use super::slots::Slot;
use super::token::TokenRecord;
use crate::balance::ServerSession;

/// The longest `Origin` that is kept. An origin that a list can match is shorter: its host has at most 253 bytes.
const ORIGIN_MAX_BYTES: usize = 512;

/// The part of an admission that a session keeps until it ends. Dropping it releases the slots.
#[derive(Debug)]
pub struct Lease {
    _session: Slot<()>,
    /// Most routes limit neither addresses nor subjects.
    client: Option<Box<ClientSlots>>,
    is_client_released: bool,
    /// The count of the session at its server.
    server: Option<ServerSession>,
}

/// The facts that a session was admitted with. A later snapshot can check them again.
#[derive(Debug)]
pub struct Grant {
    /// The `[auth]` section that admitted the client; `None`: the route was open. With the subject it is the identity
    /// of the client.
    pub auth: Option<Arc<str>>,
    /// The token's subject.
    pub subject: Option<Arc<str>>,
    /// The token, if the route required one.
    pub token: SessionToken,
    /// The answer of the forward authentication service, if it admitted the client.
    pub answered: Option<Answered>,
    /// The values of the path's placeholders.
    pub params: Params,
    /// The host of the request, in the form that routes compare.
    pub host: Box<str>,
    /// The value of `Origin`, cut to a length that no origin in a list has.
    pub origin: Option<Box<[u8]>>,
    /// The client's address.
    pub address: IpAddr,
}

impl Grant {
    /// Whether this holds for the client as revocations see it. A client of an open route cannot be revoked.
    pub fn is_revoked(&self, check: impl FnOnce(&Identity<'_>) -> bool) -> bool {
        let token = self.token.get();
        identity(self.auth.as_deref(), self.subject.as_deref(), token.as_deref()).is_some_and(|client| check(&client))
    }

    /// Returns the client as the limits of this route count it.
    pub(super) fn limited_client<'a>(&'a self, route: &'a Arc<str>) -> LimitedClient<'a> {
        LimitedClient { route, address: self.address, auth: self.auth.as_deref(), subject: self.subject.as_deref() }
    }
}

/// Returns an `Origin`, cut to a length that no origin in a list has.
pub(super) fn short_origin(origin: Option<&[u8]>) -> Option<Box<[u8]>> {
    origin.map(|origin| origin.get(..ORIGIN_MAX_BYTES).unwrap_or(origin).into())
}

/// Returns a client of this section as revocations see it.
pub(super) fn identity<'a>(
    auth: Option<&'a str>,
    subject: Option<&'a str>,
    token: Option<&'a TokenRecord>,
) -> Option<Identity<'a>> {
    Some(Identity { auth: auth?, subject, token: token.map(TokenRecord::ids) })
}

/// The token of a session. A fresh one may replace it while the session is open.
#[derive(Debug)]
pub struct SessionToken(ArcSwapOption<TokenRecord>);

impl SessionToken {
    /// Holds the token that the session was admitted with.
    pub(super) fn new(token: Option<TokenRecord>) -> Self {
        Self(ArcSwapOption::from_pointee(token))
    }

    /// Returns the last token.
    pub fn get(&self) -> Option<Arc<TokenRecord>> {
        self.0.load_full()
    }

    /// Replaces the token: every later check of the session is by this one.
    pub fn replace(&self, token: Arc<TokenRecord>) {
        self.0.store(Some(token));
    }
}

impl Lease {
    /// Creates the lease of a session with its slot and those of its client.
    pub(super) fn new(session: Slot<()>, client: ClientSlots) -> Self {
        let mut lease = Self { _session: session, client: None, is_client_released: false, server: None };
        lease.add_client(client);
        lease
    }

    /// Keeps the count of the session at its server until the lease is dropped.
    pub fn hold_server(&mut self, session: ServerSession) {
        self.server = Some(session);
    }

    /// Ends the count of the session at its server, to which the connection was lost. Returns when to close the client;
    /// see [`ServerSession::lose`].
    pub fn lose_server(&mut self, spread: Duration, jitter: u16, now: Instant) -> Instant {
        self.server.take().map_or(now, |server| server.lose(spread, jitter, now))
    }

    /// Releases the slots of the address and of the subject, because the client has disconnected or its session is
    /// over. The slot of the session itself is released when the lease is dropped, since the session has its
    /// descriptors until then.
    pub fn release_client(&mut self) {
        self.client = None;
        self.is_client_released = true;
    }

    /// Notes that another process continues the session, which has slots there.
    pub fn continue_elsewhere(&mut self) {
        if let Some(client) = &mut self.client {
            client.continue_elsewhere();
        }
    }

    /// Adds slots to those of the client, unless they were released.
    pub fn add_client(&mut self, added: ClientSlots) {
        if !self.is_client_released && !added.is_empty() {
            self.client.get_or_insert_default().add(added);
        }
    }

    /// Whether the slots of its client were released.
    pub fn is_client_released(&self) -> bool {
        self.is_client_released
    }

    /// Whether it is counted at its server.
    pub fn has_server(&self) -> bool {
        self.server.is_some()
    }

    /// Whether it holds slots of its client, which another session may take over.
    pub fn is_limited(&self) -> bool {
        self.client.is_some()
    }

    /// Whether another session has taken over a slot of this one.
    pub fn is_replaced(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.are_held())
    }
}
