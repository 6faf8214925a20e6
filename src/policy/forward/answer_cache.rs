//! Keeps answers of a forward authentication service for a short time, by the hash of the question.
//!
//! Only answers that admit are kept: a client that was rejected may log in with the same cookie and try again at once.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::exchange::{ForwardAnswer, QuestionKey};

/// The maximum number of answers of one section, each of at most
/// [`ANSWER_MAX_BYTES`](super::ANSWER_MAX_BYTES).
const ANSWERS_MAX: usize = 4096;

/// A cache of two generations. The current one becomes the previous one when it is full or as old as an answer may
/// become, and the old previous one is dropped.
pub(super) struct AnswerCache(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    current: HashMap<QuestionKey, Answer>,
    previous: HashMap<QuestionKey, Answer>,
    /// The time at which the current generation ends.
    rotates: Option<Instant>,
}

struct Answer {
    answer: Arc<ForwardAnswer>,
    ends: Instant,
}

impl AnswerCache {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Returns the answer to a question, unless it is too old.
    pub(super) fn get(&self, key: &QuestionKey, now: Instant) -> Option<Arc<ForwardAnswer>> {
        self.with(|answers| {
            let found = answers.current.get(key).or_else(|| answers.previous.get(key));
            found.filter(|answer| now < answer.ends).map(|answer| Arc::clone(&answer.answer))
        })
    }

    /// Keeps an answer for this time.
    pub(super) fn insert(&self, key: QuestionKey, answer: Arc<ForwardAnswer>, now: Instant, time: Duration) {
        let Some(ends) = now.checked_add(time) else { return };
        let dropped = self.with(|answers| {
            let is_over = answers.rotates.is_none_or(|rotates| rotates <= now);
            let is_full = answers.current.len() >= ANSWERS_MAX / 2 && !answers.current.contains_key(&key);
            let mut dropped = HashMap::new();
            if is_over || is_full {
                answers.rotates = Some(ends);
                dropped = mem::replace(&mut answers.previous, mem::take(&mut answers.current));
            }
            answers.current.insert(key, Answer { answer, ends });
            dropped
        });
        // Not under the lock.
        drop(dropped);
    }

    /// Drops the answer to a question.
    pub(super) fn remove(&self, key: &QuestionKey) {
        self.with(|answers| drop((answers.current.remove(key), answers.previous.remove(key))));
    }

    /// Runs `act` with the lock held. The maps are consistent after every step, so a poisoned lock is usable.
    fn with<T>(&self, act: impl FnOnce(&mut Answers) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Shows the number of answers only.
impl fmt::Debug for AnswerCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.with(|answers| answers.current.len() + answers.previous.len());
        f.debug_struct("AnswerCache").field("answers", &len).finish()
    }
}
