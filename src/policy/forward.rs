//! Forward authentication (`kind = "forward"`): an HTTP service decides on each request by its headers, and its answer
//! takes the place of a token.

mod answer_cache;
mod exchange;
mod outcomes;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue};

use self::answer_cache::AnswerCache;
pub use self::exchange::{
    ANSWER_MAX_BYTES, AnswerError, Answered, ForwardAnswer, ForwardConfig, Question, QuestionKey,
};
pub use self::outcomes::AuthOutcome;
use self::outcomes::Outcomes;
use super::claim_path::ClaimPath;
use super::claims::Claims;
use super::members::{Claim, Members};
use super::slots::{Slot, Slots};

/// The maximum number of requests of one section that wait for the service at once.
pub const PENDING_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(511);

/// The state of one section: its configuration, the answers that can be reused, and the requests that wait.
#[derive(Debug)]
pub struct ForwardAuth {
    config: ForwardConfig,
    cache: AnswerCache,
    pending: Slots<()>,
    outcomes: Arc<Outcomes>,
}

/// A request that waits for the service. Dropping it ends the wait.
#[derive(Debug)]
pub struct PendingQuestion {
    _slot: Slot<()>,
}

impl ForwardAuth {
    /// Creates the state without answers.
    pub fn new(config: ForwardConfig) -> Self {
        Self { config, cache: AnswerCache::new(), pending: Slots::new(), outcomes: Arc::default() }
    }

    /// Returns the state without answers for a changed configuration. Its counts of outcomes continue.
    pub fn replace(&self, config: ForwardConfig) -> Self {
        Self { outcomes: Arc::clone(&self.outcomes), ..Self::new(config) }
    }

    /// Counts the outcome of a question.
    pub fn count(&self, outcome: AuthOutcome) {
        self.outcomes.count(outcome);
    }

    /// Returns the number of questions with this outcome.
    pub fn outcomes(&self, outcome: AuthOutcome) -> u64 {
        self.outcomes.get(outcome)
    }

    /// Returns its configuration.
    pub fn config(&self) -> &ForwardConfig {
        &self.config
    }

    /// Counts a request that waits for the service; `None` if [`PENDING_MAX`] wait already.
    pub fn pend(&self) -> Option<PendingQuestion> {
        Some(PendingQuestion { _slot: self.pending.take((), PENDING_MAX)? })
    }

    /// Returns an earlier answer to the same question that can be reused.
    pub fn known(&self, question: &Question, now: Instant) -> Option<Arc<ForwardAnswer>> {
        self.config.cache_for.and_then(|_| self.cache.get(&question.key(), now))
    }

    /// Keeps an answer for later requests.
    pub fn keep(&self, question: &Question, answer: &Arc<ForwardAnswer>, now: Instant) {
        if let Some(time) = self.config.cache_for {
            self.cache.insert(question.key(), Arc::clone(answer), now, time);
        }
    }

    /// Drops the answer to a question that the service has answered otherwise since.
    pub fn forget(&self, question: &Question) {
        self.cache.remove(&question.key());
    }

    /// Returns the answer as claims: each claim that routes use is the listed header of its name.
    pub(super) fn claims(&self, answer: &ForwardAnswer) -> Claims {
        let claim = |name: &ClaimPath| {
            let header = HeaderName::try_from(name.as_str()).ok()?;
            let whole = self.config.subject_header.as_ref() == Some(&header);
            let values = answer.headers().iter().filter(|(name, _)| *name == header).map(|(_, value)| value);
            Some((Arc::clone(name.text()), claim_of(values, whole)?))
        };
        Claims::of_answer(Members::of_pairs(self.config.claims.iter().filter_map(claim)))
    }
}

/// Returns the values of one header as a claim; `None` without values. A header with commas is a list (RFC 9110 section
/// 5.6.1), as that with the groups of a user, unless it is read `whole`.
fn claim_of<'a>(values: impl Iterator<Item = &'a HeaderValue>, whole: bool) -> Option<Claim> {
    let mut elements: Vec<Claim> = Vec::new();
    for value in values {
        let Ok(text) = str::from_utf8(value.as_bytes()) else { return Some(Claim::Malformed) };
        if whole {
            elements.push(Claim::Text(text.trim().into()));
        } else {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            elements.extend(parts.map(|part| Claim::Text(part.into())));
        }
    }
    if elements.len() > 1 { Some(Claim::List(elements.into())) } else { elements.pop() }
}

#[cfg(test)]
mod tests;
