//! The slots that an upgrade asks other processes for, at its admission and at its opening.

use super::admission::{Admission, Authenticated};
use super::counters::{Counters, LimitedClient};
use super::limits::OnSessionLimit;
use super::rejection::{Rejected, Rejection};
use super::session_slots::SessionId;
use super::shared_slots::{SlotAsk, SlotAsks, asks};
use super::slot_store::SlotKey;

impl Authenticated<'_> {
    /// Returns the slots to be asked for before [`Authenticated::reserve`].
    ///
    /// # Errors
    /// If the sessions of this process alone reach a limit, so that nobody has to be asked.
    pub fn slot_asks(&self) -> Result<SlotAsks, Rejected> {
        let (candidate, subject, counters) = self.parts();
        let (route, facts, auth) = (candidate.route(), candidate.facts(), self.auth());
        let client = LimitedClient { route: route.name(), address: facts.address, auth: auth.as_deref(), subject };
        let asks = asks(counters, &route.config.limits, &client, (facts.id, OnSessionLimit::Refuse));
        for SlotAsk { key, max } in &asks.slots {
            let count = match key {
                SlotKey::Address(..) => counters.by_address().count(&client.address_key()),
                SlotKey::Subject(_) => counters.by_subject().count(&client.subject_key()),
            };
            if count >= max.get() {
                return Err(self.reject(key.rejection()));
            }
        }
        Ok(asks)
    }

    /// Whether slots are to be asked for when the upstream has accepted the session.
    pub fn asks_at_opening(&self) -> bool {
        let (candidate, subject, counters) = self.parts();
        let limits = &candidate.route().config.limits;
        let closes = limits.on_session_limit == OnSessionLimit::CloseOldest && !limits.is_reporting();
        let is_asked =
            limits.sessions_per_address.is_some() || limits.sessions_per_subject.is_some_and(|_| subject.is_some());
        counters.shared_slots().is_shared() && closes && is_asked
    }

    /// Returns the rejection of a session whose slots cannot be asked for.
    pub fn reject_slots(&self, rejection: Rejection) -> Rejected {
        self.reject(rejection)
    }
}

impl Admission {
    /// Returns the slots to be asked for before [`Admission::open_session`]. `id` is that of the session.
    pub fn slot_asks(&self, id: SessionId, counters: &Counters) -> SlotAsks {
        let client = self.grant().limited_client(self.route().name());
        asks(counters, &self.route().config.limits, &client, (id, OnSessionLimit::CloseOldest))
    }
}
