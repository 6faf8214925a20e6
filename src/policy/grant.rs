//! The parts of an admission that a session keeps: the facts that it was admitted with, and its slots.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::counters::{RouteAddress, RouteIdentity};
use super::forward::Answered;
use super::pattern::Params;
use super::slots::Slot;
use super::token::TokenRecord;

/// The part of an admission that a session keeps until it ends. Dropping it releases the slots.
#[derive(Debug)]
pub struct Lease {
    _session: Slot<()>,
    client: Option<ClientSlots>,
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

/// The slots that a session takes from the limits of its client.
pub type ClientSlots = (Option<Slot<RouteAddress>>, Option<Slot<RouteIdentity>>);

impl Lease {
    /// Creates the lease of a session with its slot and those of its client.
    pub(super) fn new(session: Slot<()>, client: ClientSlots) -> Self {
        Self { _session: session, client: Some(client) }
    }

    /// Releases the slots of the address and of the subject, because the client has disconnected or its session is
    /// over. The slot of the session itself is released when the lease is dropped, since the session has its
    /// descriptors until then.
    pub fn release_client(&mut self) {
        self.client = None;
    }

    /// Adds slots to those of the client, unless they were released.
    pub fn add_client(&mut self, added: ClientSlots) {
        if let Some((address, subject)) = &mut self.client {
            *address = added.0.or(address.take());
            *subject = added.1.or(subject.take());
        }
    }
}
