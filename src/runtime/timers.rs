//! The timers of a worker's sessions: one ordered list of deadlines, and one sleep of tokio's for all of them.
//!
//! A session has a [`Timer`] instead of a sleep of tokio's, which takes more memory and must be polled each time.
//! Checking a timer is one comparison. The list changes only when a deadline is set or passes, never because of a
//! frame: a deadline that a frame postpones stays in the list, and the session sets the later one when it passes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::lifecycle::Lifecycle;
use super::{clock, cycle};

/// Far deadlines may pass this much later, so that many sessions wake at once.
const COARSE: Duration = Duration::from_millis(250);
/// The time from which a deadline counts as far. Nearer deadlines are those of rates or of the end of a handshake.
const FAR: Duration = Duration::from_secs(2);
/// A deadline further away than this, a century, is ignored. It may be the `exp` of a token, and a deadline near the
/// end of the clock would overflow in the arithmetic of tokio's timers.
const NEVER: Duration = Duration::from_hours(100 * 365 * 24);

/// The number of sessions that are woken in a row before the worker's other sessions run. Many deadlines may pass at
/// once, as those of tokens that were issued together.
const WOKEN_IN_A_ROW: usize = 64;

/// The timers of one worker. No other thread uses them, so the lock is always free.
pub struct Timers {
    list: Mutex<List>,
    /// Notified when a deadline is set that precedes all others.
    sooner: Notify,
    epoch: Instant,
}

impl Timers {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self { list: Mutex::new(List::default()), sooner: Notify::new(), epoch: clock::now() }
    }

    /// Wakes each session when its deadline passes, and all sessions when the process drains or aborts. Never returns.
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
            // Not under the lock: a session that ends when it is woken removes its timer.
            for (number, some) in woken.chunks(WOKEN_IN_A_ROW).enumerate() {
                if number > 0 {
                    cycle::next().await;
                }
                some.iter().for_each(Waker::wake_by_ref);
            }
        }
    }

    /// Rounds a far deadline up to a multiple of [`COARSE`] after the epoch.
    fn round(&self, at: Instant, now: Instant) -> Instant {
        if at.saturating_duration_since(now) < FAR {
            return at;
        }
        let since = at.saturating_duration_since(self.epoch).as_nanos();
        let rest = since.next_multiple_of(COARSE.as_nanos()) - since;
        at.checked_add(Duration::from_nanos(u64::try_from(rest).unwrap_or_default())).unwrap_or(at)
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // The list is consistent after every step.
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

/// The timer of one session. Dropping it removes it from the list.
#[derive(Debug)]
pub struct Timer {
    timers: Arc<Timers>,
    slot: Option<usize>,
    due_at: Option<Instant>,
}

impl Timer {
    /// Creates a timer that is not set.
    pub fn new(timers: Arc<Timers>) -> Self {
        Self { timers, slot: None, due_at: None }
    }

    /// Whether the deadline has passed. If it has, the timer is no longer set.
    pub fn pass(&mut self, now: Instant) -> bool {
        let Some(at) = self.due_at.filter(|at| *at <= now) else { return false };
        self.due_at = None;
        if let Some(slot) = self.slot {
            self.timers.lock().due.remove(&(at, slot));
        }
        true
    }

    /// Whether a deadline is set.
    pub fn is_set(&self) -> bool {
        self.due_at.is_some()
    }

    /// Sets the deadline at which a task is woken; a far one may pass somewhat later. An earlier deadline that is
    /// already set stays. A deadline more than a century away is ignored.
    pub fn set(&mut self, at: Instant, now: Instant, waker: &Waker) {
        if at.saturating_duration_since(now) > NEVER || self.due_at.is_some_and(|due_at| due_at <= at) {
            return;
        }
        let at = self.timers.round(at, now);
        let mut list = self.timers.lock();
        let slot = *self.slot.get_or_insert_with(|| list.insert(waker.clone()));
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
        let waker = list.remove(slot);
        // Not under the lock: dropping the waker may drop its task.
        drop(list);
        drop(waker);
    }
}

/// The wakers of all timers, and their deadlines.
#[derive(Default)]
struct List {
    /// By slot. An empty slot is free.
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    due: BTreeSet<(Instant, usize)>,
}

impl List {
    fn insert(&mut self, waker: Waker) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        });
        if let Some(entry) = self.wakers.get_mut(slot) {
            *entry = Some(waker);
        }
        slot
    }

    fn remove(&mut self, slot: usize) -> Option<Waker> {
        self.free.push(slot);
        self.wakers.get_mut(slot).and_then(Option::take)
    }

    fn first(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Removes the deadlines that have passed, and returns their wakers.
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
    use std::task::{Poll, Wake};

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
    fn each_timer_wakes_its_task_when_it_is_due() {
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
        // A later deadline does not replace the one that is set; an earlier one does.
        first.set(at(30), start, &waker);
        first.set(at(15), start, &waker);
        assert_eq!((wake_due(&timers, at(15)), first.pass(at(15))), (1, true));
        assert_eq!(wake_due(&timers, at(10_000)), 0);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_task_that_observes_its_deadline_first_is_not_woken() {
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
    fn a_deadline_beyond_a_century_is_ignored_without_overflow() {
        let timers = Arc::new(Timers::new());
        let (start, waker) = (timers.epoch, Waker::from(Arc::new(Woken::default())));
        // The last instants that the clock can represent.
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

    /// Another task of the worker runs while many deadlines that passed at once are handled.
    #[test]
    fn deadlines_that_pass_together_do_not_keep_other_sessions_waiting() {
        const MANY: usize = 10 * WOKEN_IN_A_ROW;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (timers, passed) = (Arc::new(Timers::new()), Arc::new(AtomicUsize::new(0)));
            let start = timers.epoch;
            for _ in 0..MANY {
                let (mut timer, passed) = (Timer::new(Arc::clone(&timers)), Arc::clone(&passed));
                tokio::spawn(std::future::poll_fn(move |cx| {
                    if timer.pass(clock::now()) {
                        passed.fetch_add(1, Ordering::Relaxed);
                        return Poll::Ready(());
                    }
                    timer.set(start + Duration::from_millis(50), start, cx.waker());
                    Poll::Pending
                }));
            }
            let other = async {
                let mut first = 0;
                while passed.load(Ordering::Relaxed) < MANY {
                    cycle::next().await;
                    first = if first == 0 { passed.load(Ordering::Relaxed) } else { first };
                }
                first
            };
            let lifecycle = Lifecycle::new(Duration::ZERO);
            let first = tokio::select! {
                biased;
                () = cycle::Cycles::new().unwrap().run() => panic!("the cycles ended"),
                () = timers.run(&lifecycle) => panic!("the timers ended"),
                first = other => first,
            };
            assert!(first <= 2 * WOKEN_IN_A_ROW, "{first} before another task ran");
        });
    }

    #[test]
    fn a_dropped_timer_is_removed_and_its_slot_is_reused() {
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
