//! The requests of an upstream that wait for a server: first in, first out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// The requests that wait for a server of an upstream. All pools of the upstream share it, so that a reload neither
/// reorders nor forgets them.
///
/// Only the first request in the queue looks for a server. When it finds one, or leaves, the next one is woken. The lock
/// is held for one step in a map of the waiting requests, and for no wait.
#[derive(Debug, Default)]
pub struct Queue {
    /// The number of requests that wait, to be read without the lock.
    waiting: AtomicUsize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// The number of the next ticket.
    next: u64,
    /// The requests that wait, by the number of their tickets. A request that was not polled yet has no waker.
    wakers: BTreeMap<u64, Option<Waker>>,
}

/// A position in a queue. A request that tries a server steps out and, if it has to wait again, back to where it was or
/// to the end. The position is given up when the ticket is dropped.
#[derive(Debug)]
pub struct Ticket {
    queue: Arc<Queue>,
    number: u64,
}

impl Queue {
    /// Whether no request waits. A new request must not overtake one that does.
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Returns the number of requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes the last position; `None` if `max` requests wait. The request waits from now on.
    pub fn join(self: &Arc<Self>, max: u32) -> Option<Ticket> {
        let mut entries = self.entries();
        if entries.wakers.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
            return None;
        }
        let number = self.add_last(&mut entries);
        Some(Ticket { queue: Arc::clone(self), number })
    }

    /// Adds a request at the end. Returns the number of its ticket.
    fn add_last(&self, entries: &mut Entries) -> u64 {
        let number = entries.next;
        entries.next = number.saturating_add(1);
        entries.wakers.insert(number, None);
        self.count(entries);
        number
    }

    /// Wakes the first request, because a server may have become available. Costs one load if none waits.
    ///
    /// The caller has made its change with [`Ordering::SeqCst`]. Then either it sees here that a request waits, or that
    /// request sees the change: see [`Ticket::is_first`].
    pub fn wake_first(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let waker = self.entries().first_waker();
        waker.iter().for_each(Waker::wake_by_ref);
    }

    /// Sets the number of waiting requests, under the lock.
    fn count(&self, entries: &Entries) {
        self.waiting.store(entries.wakers.len(), Ordering::SeqCst);
    }

    /// Every change leaves the entries consistent, so a panic of another holder does no harm.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn first_waker(&self) -> Option<Waker> {
        self.wakers.first_key_value().and_then(|(_, waker)| waker.clone())
    }

    fn is_first(&self, number: u64) -> bool {
        self.wakers.first_key_value().is_some_and(|(first, _)| *first == number)
    }
}

impl Ticket {
    /// Whether the request is the first one that waits. It is woken when it becomes the first one, and when a server may
    /// have become available while it is. To be called before each look for a server, so that no change is missed.
    pub fn is_first(&self, waker: &Waker) -> bool {
        let mut entries = self.queue.entries();
        let is_first = entries.is_first(self.number);
        if let Some(known) = entries.wakers.get_mut(&self.number)
            && known.as_ref().is_none_or(|known| !known.will_wake(waker))
        {
            *known = Some(waker.clone());
        }
        drop(entries);
        // Orders the count of this request, which `wake_first` reads, before the look at the servers that follows.
        fence(Ordering::SeqCst);
        is_first
    }

    /// Waits again, at the same position, however many others wait.
    pub fn step_in(&self) {
        let mut entries = self.queue.entries();
        entries.wakers.entry(self.number).or_insert(None);
        self.queue.count(&entries);
    }

    /// Waits again, behind all others, however many they are.
    pub fn step_in_last(&mut self) {
        self.step_out();
        self.number = self.queue.add_last(&mut self.queue.entries());
    }

    /// Stops to wait, and keeps the position. Wakes the request that is the first one now.
    pub fn step_out(&self) {
        let mut entries = self.queue.entries();
        let was_first = entries.is_first(self.number);
        entries.wakers.remove(&self.number);
        self.queue.count(&entries);
        let next = entries.first_waker().filter(|_| was_first);
        drop(entries);
        next.iter().for_each(Waker::wake_by_ref);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.step_out();
    }
}

#[cfg(test)]
mod tests;
