//! The timers of a worker's sessions: one list of what is due when, and one sleep for all of it.
//!
//! A session has a [`Timer`] and not a sleep of tokio's, which takes more memory and must be asked at every turn. Here
//! asking is a comparison; the list is touched when a deadline is set or passes, which no frame makes happen: a deadline
//! that a frame puts off is left where it is, and found to lie later when it passes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::clock;
use super::lifecycle::Lifecycle;

/// Deadlines that are far away may pass this much later, so that many sessions wake at once.
const COARSE: Duration = Duration::from_millis(250);
/// How far away is far: what is nearer is somebody's rate or the end of a handshake.
const FAR: Duration = Duration::from_secs(2);
/// A deadline further away than a century is never met. It may be a token's `exp`, and one near the end of the clock would
/// overflow in the arithmetic of tokio's timers.
const NEVER: Duration = Duration::from_hours(100 * 365 * 24);

/// The timers of one worker. Other threads have none in it, so its lock is always free.
pub struct Timers {
    list: Mutex<List>,
    /// Told when something is due before all that was known.
    sooner: Notify,
    epoch: Instant,
}

impl Timers {
    /// None yet.
    pub fn new() -> Self {
        Self { list: Mutex::new(List::default()), sooner: Notify::new(), epoch: clock::now() }
    }

    /// Wakes every session when its deadline passes, and all of them when the process drains or is cut off. It never ends.
    pub async fn run(&self, lifecycle: &Lifecycle) {
        let mut phase = lifecycle.phase();
        loop {
            let next = self.lock().first();
            let passed = async {
                match next {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let woken = tokio::select! {
                () = passed => self.lock().take_due(clock::now()),
                () = self.sooner.notified() => Vec::new(),
                next = lifecycle.after(phase) => {
                    phase = next;
                    self.lock().all()
                }
            };
            // Not under the lock: a session that ends when it is woken takes its timer out.
            woken.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Far deadlines are put to the next of a few points in time.
    fn round(&self, at: Instant, now: Instant) -> Instant {
        if at.saturating_duration_since(now) < FAR {
            return at;
        }
        let since = at.saturating_duration_since(self.epoch).as_nanos();
        let rest = since.next_multiple_of(COARSE.as_nanos()) - since;
        at.checked_add(Duration::from_nanos(u64::try_from(rest).unwrap_or_default())).unwrap_or(at)
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // The list is whole after every step.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").finish_non_exhaustive()
    }
}

/// The timer of one session. It is taken out of the list when it is dropped.
#[derive(Debug)]
pub struct Timer {
    timers: Arc<Timers>,
    slot: Option<usize>,
    due_at: Option<Instant>,
}

impl Timer {
    /// Nothing is due.
    pub fn new(timers: Arc<Timers>) -> Self {
        Self { timers, slot: None, due_at: None }
    }

    /// Whether what was set is due; then it is set no more.
    pub fn pass(&mut self, now: Instant) -> bool {
        let Some(at) = self.due_at.filter(|at| *at <= now) else { return false };
        self.due_at = None;
        if let Some(slot) = self.slot {
            self.timers.lock().due.remove(&(at, slot));
        }
        true
    }

    /// Whether something is set.
    pub fn is_set(&self) -> bool {
        self.due_at.is_some()
    }

    /// Wakes a task then, or somewhat later; or before that, if it was set to before that. A time more than a century away
    /// never comes.
    pub fn set(&mut self, at: Instant, now: Instant, waker: &Waker) {
        if at.saturating_duration_since(now) > NEVER || self.due_at.is_some_and(|due_at| due_at <= at) {
            return;
        }
        let at = self.timers.round(at, now);
        let mut list = self.timers.lock();
        let slot = *self.slot.get_or_insert_with(|| list.enter(waker.clone()));
        if let Some(before) = self.due_at.replace(at) {
            list.due.remove(&(before, slot));
        }
        if list.first().is_none_or(|first| at < first) {
            self.timers.sooner.notify_one();
        }
        list.due.insert((at, slot));
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut list = self.timers.lock();
        if let Some(at) = self.due_at {
            list.due.remove(&(at, slot));
        }
        let waker = list.leave(slot);
        // Its drop may be the end of its task.
        drop(list);
        drop(waker);
    }
}

/// Who is to be woken, and when.
#[derive(Default)]
struct List {
    /// By entry; an entry that is empty is free.
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    due: BTreeSet<(Instant, usize)>,
}

impl List {
    fn enter(&mut self, waker: Waker) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        });
        if let Some(place) = self.wakers.get_mut(slot) {
            *place = Some(waker);
        }
        slot
    }

    fn leave(&mut self, slot: usize) -> Option<Waker> {
        self.free.push(slot);
        self.wakers.get_mut(slot).and_then(Option::take)
    }

    fn first(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those whose time has come.
    fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let later = self.due.split_off(&(now, usize::MAX));
        let due = std::mem::replace(&mut self.due, later);
        due.iter().filter_map(|(_, slot)| self.wakers.get(*slot)?.clone()).collect()
    }

    fn all(&self) -> Vec<Waker> {
        self.wakers.iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wake_due(timers: &Timers, now: Instant) -> usize {
        let due = timers.lock().take_due(now);
        due.iter().for_each(Waker::wake_by_ref);
        due.len()
    }

    #[test]
    fn each_wakes_when_it_is_due() {
        let (timers, woken) = (Arc::new(Timers::new()), Arc::new(Woken::default()));
        let (waker, start) = (Waker::from(Arc::clone(&woken)), timers.epoch);
        let at = |millis| start + Duration::from_millis(millis);
        let mut first = Timer::new(Arc::clone(&timers));
        let mut second = Timer::new(Arc::clone(&timers));
        first.set(at(20), start, &waker);
        second.set(at(10), start, &waker);
        assert_eq!((wake_due(&timers, at(9)), first.pass(at(9)), second.pass(at(9))), (0, false, false));
        assert_eq!((wake_due(&timers, at(10)), first.pass(at(10)), second.pass(at(10))), (1, false, true));
        assert!(!second.pass(at(10)), "it passed already");
        // What is put off stays, what is brought forward moves.
        first.set(at(30), start, &waker);
        first.set(at(15), start, &waker);
        assert_eq!((wake_due(&timers, at(15)), first.pass(at(15))), (1, true));
        assert_eq!(wake_due(&timers, at(10_000)), 0);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn who_polls_before_it_is_woken_is_not_woken() {
        let (timers, waker) = (Arc::new(Timers::new()), Waker::from(Arc::new(Woken::default())));
        let mut timer = Timer::new(Arc::clone(&timers));
        timer.set(timers.epoch, timers.epoch, &waker);
        assert!(timer.pass(timers.epoch));
        assert_eq!(wake_due(&timers, timers.epoch), 0);
    }

    #[test]
    fn far_deadlines_pass_together_and_at_most_a_quarter_second_late() {
        let timers = Timers::new();
        let start = timers.epoch;
        for millis in [2_000, 2_001, 2_249, 2_250, 2_251, 60_000] {
            let at = start + Duration::from_millis(millis);
            let rounded = timers.round(at, start);
            let since = rounded.duration_since(start).as_nanos();
            assert!(
                rounded >= at && rounded < at + COARSE && since.is_multiple_of(COARSE.as_nanos()),
                "{millis}: {rounded:?}"
            );
        }
        let near = start + Duration::from_millis(1_999);
        assert_eq!(timers.round(near, start), near);
    }

    #[test]
    fn a_deadline_beyond_a_century_never_comes_and_overflows_nothing() {
        let timers = Arc::new(Timers::new());
        let (start, waker) = (timers.epoch, Waker::from(Arc::new(Woken::default())));
        // The last instants that the clock can name.
        let mut last = start;
        for shift in (0..64).rev() {
            let seconds = last.checked_add(Duration::from_secs(1 << shift));
            last = seconds.unwrap_or(last);
        }
        for shift in (0..30).rev() {
            let nanos = last.checked_add(Duration::from_nanos(1 << shift));
            last = nanos.unwrap_or(last);
        }
        assert!(last.checked_add(Duration::from_nanos(2)).is_none());
        for back in [0, 1, 999_999, 1_000_000, 250_000_000, 1_000_000_000] {
            let at = last.checked_sub(Duration::from_nanos(back)).unwrap();
            timers.round(at, start);
            let mut timer = Timer::new(Arc::clone(&timers));
            timer.set(at, start, &waker);
            assert!(!timer.is_set() && timers.lock().first().is_none(), "{back}");
        }
        let mut timer = Timer::new(Arc::clone(&timers));
        timer.set(start + NEVER, start, &waker);
        assert!(timer.is_set());
    }

    #[test]
    fn a_timer_that_is_dropped_leaves_nothing() {
        let (timers, woken) = (Arc::new(Timers::new()), Arc::new(Woken::default()));
        for _ in 0..3 {
            let mut timer = Timer::new(Arc::clone(&timers));
            timer.set(timers.epoch, timers.epoch, &Waker::from(Arc::clone(&woken)));
            assert_eq!(timers.lock().all().len(), 1);
        }
        let list = timers.lock();
        assert_eq!((list.wakers.len(), list.all().len(), list.due.len()), (1, 0, 0));
        assert_eq!(Arc::strong_count(&woken), 1);
    }
}
