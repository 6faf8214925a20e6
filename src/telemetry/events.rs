//! The last ends of sessions and rejections of requests, kept in memory so that an operator can ask what happened.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::escape::{Escaping, Form};
use super::identity::Identities;
use super::rejections::RejectionEvent;
use super::request::{RequestId, RequestSummary};
use super::sessions::{SessionEnd, SessionSummary};
use super::trace_context::TraceId;
use super::truncate;
use crate::policy::limits::LimitKind;
use crate::policy::rejection::Rejection;
use crate::session::{Outcome, SessionStats};

/// The number of events that are kept. They take at most 2.8 MiB, and usually 0.5 MiB (`tests/history_memory.rs`).
pub const EVENTS_MAX: usize = 1000;

/// The last [`EVENTS_MAX`] events. If there are more, the older ones of the kind that has more are dropped, so that a
/// flood of rejections leaves the last 500 ends.
#[derive(Debug, Default)]
pub struct Events {
    /// `None`: no event is kept, because nobody can ask for it.
    kept: Option<Mutex<Kept>>,
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    next_sequence: u64,
    ends: VecDeque<Arc<Event>>,
    rejections: VecDeque<Arc<Event>>,
}

/// The end of a session, or the rejection of a request. It has no token, no cookie and no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, counted from 1.
    pub sequence: u64,
    /// The id of the request.
    pub id: RequestId,
    /// The time, since the Unix epoch. `None`: the clock cannot be right.
    pub unix: Option<Duration>,
    /// The generation of the configuration in use at that time.
    pub generation: u64,
    /// The trace id. `None` if the request was not read.
    pub trace_id: Option<TraceId>,
    /// The route, if one was found.
    pub route: Text,
    /// The `[auth]` section that decided, if one did.
    pub auth: Text,
    /// The subject, in the form of the log.
    pub subject: Text,
    /// The client's address, in the form of the log.
    pub address: Text,
    /// The host of the request.
    pub host: Text,
    /// The path of the request.
    pub path: Text,
    /// The `Origin` of the request.
    pub origin: Text,
    /// The upstream.
    pub upstream: Text,
    /// The upstream's server.
    pub server: Text,
    /// The end or the rejection.
    pub kind: EventKind,
}

/// A text of at most 256 bytes, in which control and bidirectional characters are escaped.
pub type Text = Option<Box<str>>;

/// The kind of an event, with its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A session ended.
    End {
        /// The time since its 101.
        age: Duration,
        /// Its traffic.
        counts: SessionStats,
        /// The limits that would have acted, and how often.
        reported: Box<[(LimitKind, u64)]>,
        /// The side, the code and the cause.
        outcome: Outcome,
        /// The reason text of our Close.
        reason: Box<str>,
    },
    /// A request was rejected.
    Rejection {
        /// The cause.
        rejection: Rejection,
        /// The claim that fails a requirement.
        claim: Text,
        /// Further text, such as an error of the upstream.
        detail: Text,
    },
}

impl Events {
    /// Creates an empty list, which stays empty unless `is_kept`.
    pub fn new(is_kept: bool) -> Self {
        Self { kept: is_kept.then(Mutex::default), generation: AtomicU64::new(1) }
    }

    /// Sets the generation of further events.
    pub fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// Keeps the end of a session.
    pub fn push_end(
        &self,
        session: &SessionSummary<'_>,
        end: &SessionEnd<'_>,
        identities: &Identities,
        unix: Option<Duration>,
    ) {
        if self.kept.is_none() {
            return;
        }
        let kind = EventKind::End {
            age: end.age,
            counts: end.counts,
            reported: end.reported.into(),
            outcome: end.outcome,
            reason: text(Some(end.reason)).unwrap_or_default(),
        };
        self.push(Event {
            route: text(Some(session.route)),
            auth: text(session.auth),
            upstream: text(Some(session.upstream)),
            server: text(Some(session.server)),
            subject: text(identities.subject(session.subject).as_deref()),
            address: text(identities.address(session.client).as_deref()),
            ..self.event(session.request_id, session.request, kind, unix)
        });
    }

    /// Keeps the rejection of a request.
    pub fn push_rejection(&self, event: &RejectionEvent<'_>, identities: &Identities, unix: Option<Duration>) {
        if self.kept.is_none() {
            return;
        }
        let kind =
            EventKind::Rejection { rejection: event.rejection, claim: text(event.claim), detail: text(event.detail) };
        self.push(Event {
            route: text(event.route),
            auth: text(event.auth),
            upstream: text(event.upstream),
            server: text(event.server),
            subject: text(identities.subject(event.subject).as_deref()),
            address: text(identities.address(event.client).as_deref()),
            ..self.event(event.request_id, event.summary, kind, unix)
        });
    }

    /// Returns up to `limit` events before this sequence number, the newest first, and whether there are more.
    pub fn page(&self, before: Option<u64>, limit: usize) -> (Vec<Arc<Event>>, bool) {
        let mut events = self.kept.as_ref().map(|kept| lock(kept).before(before)).unwrap_or_default();
        events.sort_unstable_by_key(|event| std::cmp::Reverse(event.sequence));
        let has_more = events.len() > limit;
        events.truncate(limit);
        (events, has_more)
    }

    /// Returns an event with the parts that all events have.
    fn event(&self, id: RequestId, request: RequestSummary<'_>, kind: EventKind, unix: Option<Duration>) -> Event {
        Event {
            sequence: 0,
            id,
            unix,
            generation: self.generation.load(Ordering::Relaxed),
            trace_id: request.trace_id(),
            route: None,
            auth: None,
            subject: None,
            address: None,
            host: text(request.host()),
            path: text(request.path()),
            origin: text(request.origin()),
            upstream: None,
            server: None,
            kind,
        }
    }

    fn push(&self, event: Event) {
        let Some(kept) = &self.kept else { return };
        let mut event = Arc::new(event);
        // Memory is allocated before the lock, and freed after it.
        let dropped = lock(kept).push(&mut event);
        drop(dropped);
    }
}

impl Kept {
    /// Adds an event with the next sequence number. Returns the one that it replaces.
    fn push(&mut self, event: &mut Arc<Event>) -> Option<Arc<Event>> {
        self.next_sequence = self.next_sequence.wrapping_add(1);
        // Nothing else refers to the event yet.
        if let Some(event) = Arc::get_mut(event) {
            event.sequence = self.next_sequence;
        }
        let list = match event.kind {
            EventKind::End { .. } => &mut self.ends,
            EventKind::Rejection { .. } => &mut self.rejections,
        };
        list.push_back(Arc::clone(event));
        if self.ends.len() + self.rejections.len() <= EVENTS_MAX {
            return None;
        }
        let larger = if self.ends.len() > self.rejections.len() { &mut self.ends } else { &mut self.rejections };
        larger.pop_front()
    }

    /// Returns the events before this sequence number, in any order.
    fn before(&self, sequence: Option<u64>) -> Vec<Arc<Event>> {
        let events = self.ends.iter().chain(&self.rejections);
        events.filter(|event| sequence.is_none_or(|sequence| event.sequence < sequence)).cloned().collect()
    }
}

/// Returns a text as the log shows it: without characters that act on a reader's screen, and cut.
fn text(text: Option<&str>) -> Text {
    text.map(|text| {
        let mut shown = String::with_capacity(text.len());
        // Writing to a string does not fail.
        let _ = Escaping::new(&mut shown, Form::Text).write_str(truncate(text));
        truncate(&shown).into()
    })
}

fn lock(kept: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    // The lists are consistent after every step.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{CloseReason, ClosedBy};
    use crate::telemetry::test_config;

    fn identities() -> Identities {
        Identities::new(&test_config(), [0; 32])
    }

    fn reject(events: &Events, id: u128) {
        let event = RejectionEvent::new(Rejection::Origin, RequestId(id), "192.0.2.7".parse().unwrap());
        events.push_rejection(&event, &identities(), Some(Duration::from_secs(1_800_000_000)));
    }

    fn end(events: &Events, id: u128) {
        let session = SessionSummary {
            request_id: RequestId(id),
            route: "chat",
            auth: None,
            subject: Some("ann"),
            client: "192.0.2.7".parse().unwrap(),
            upstream: "up",
            server: "a:1",
            request: RequestSummary::default(),
        };
        let outcome = Outcome { by: ClosedBy::Client, code: None, cause: CloseReason::Closed };
        let (age, counts) = (Duration::ZERO, SessionStats::default());
        let end = SessionEnd { age, outcome, reason: "", counts, dropped: 0, reported: &[] };
        events.push_end(&session, &end, &identities(), None);
    }

    /// Returns the ids of a page, and whether there are more.
    fn ids(events: &Events, before: Option<u64>, limit: usize) -> (Vec<u128>, bool) {
        let (page, has_more) = events.page(before, limit);
        (page.iter().map(|event| event.id.0).collect(), has_more)
    }

    #[test]
    fn pages_continue_after_the_last_event_of_the_page_before() {
        let events = Events::new(true);
        assert_eq!(ids(&events, None, 10), (vec![], false));
        (1..=3).for_each(|id| reject(&events, id));
        end(&events, 4);
        assert_eq!(ids(&events, None, 10), (vec![4, 3, 2, 1], false));
        assert_eq!(ids(&events, None, 3), (vec![4, 3, 2], true));
        let (page, _) = events.page(None, 3);
        assert_eq!(ids(&events, Some(page[2].sequence), 3), (vec![1], false));
        reject(&events, 5);
        assert_eq!(ids(&events, Some(page[2].sequence), 3), (vec![1], false), "a newer event does not move the page");
    }

    #[test]
    fn a_flood_of_rejections_leaves_half_of_the_events_to_ends() {
        let events = Events::new(true);
        let count = |is_end: bool| {
            let (all, has_more) = events.page(None, EVENTS_MAX);
            assert!(!has_more);
            all.iter().filter(|event| matches!(event.kind, EventKind::End { .. }) == is_end).count()
        };
        (0..600).for_each(|id| end(&events, id));
        assert_eq!((count(true), count(false)), (600, 0));
        (0..10_000).for_each(|id| reject(&events, id));
        assert_eq!((count(true), count(false)), (500, 500));
        (0..2000).for_each(|id| end(&events, id));
        assert_eq!((count(true), count(false)), (500, 500));
        let (newest, _) = events.page(None, 1);
        assert_eq!((newest[0].id, newest[0].sequence), (RequestId(1999), 12_600));
    }

    #[test]
    fn one_kind_alone_may_have_all_events() {
        let events = Events::new(true);
        (0..1500).for_each(|id| reject(&events, id));
        let (all, _) = ids(&events, None, 2 * EVENTS_MAX);
        assert_eq!((all.len(), all[0], all[999]), (EVENTS_MAX, 1499, 500));
    }

    #[test]
    fn texts_are_cut_and_clients_are_shown_as_in_the_log() {
        let events = Events::new(true);
        events.set_generation(7);
        let long = "é".repeat(200);
        let event = RejectionEvent {
            detail: Some(&long),
            subject: Some(&long),
            ..RejectionEvent::new(Rejection::Origin, RequestId(1), "192.0.2.7".parse().unwrap())
        };
        let config = crate::config::LogConfig { address: crate::config::Shown::Omit, ..test_config() };
        events.push_rejection(&event, &Identities::new(&config, [0; 32]), None);
        let (page, _) = events.page(None, 1);
        let cut = "é".repeat(128);
        assert_eq!((page[0].subject.as_deref(), page[0].address.as_deref()), (Some(&*cut), None));
        let EventKind::Rejection { detail, .. } = &page[0].kind else { panic!("{page:?}") };
        assert_eq!((detail.as_deref(), page[0].generation), (Some(&*cut), 7));
    }

    #[test]
    fn characters_that_act_on_a_screen_are_escaped() {
        let events = Events::new(true);
        let event = RejectionEvent {
            subject: Some("\u{202e}evil\u{1b}[2J"),
            ..RejectionEvent::new(Rejection::Origin, RequestId(1), "192.0.2.7".parse().unwrap())
        };
        events.push_rejection(&event, &identities(), None);
        let (page, _) = events.page(None, 1);
        assert_eq!(page[0].subject.as_deref(), Some("\\u{202e}evil\\u{1b}[2J"));
    }

    #[test]
    fn nothing_is_kept_where_nobody_can_ask() {
        let events = Events::new(false);
        reject(&events, 1);
        end(&events, 2);
        assert_eq!(ids(&events, None, 10), (vec![], false));
    }
}
