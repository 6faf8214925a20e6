//! Paces handshakes, so that new connections do not delay established sessions.
//!
//! A connection that becomes a session costs about as much as twenty messages, most of it in one uninterrupted step of
//! the TLS handshake. After an outage thousands of clients connect at once, and all of their handshakes are ready
//! before the next message is. So each pass of the event loop runs a small budget of handshake steps; between passes
//! the worker polls its I/O driver and runs established sessions. A handshake that finds the budget spent is queued,
//! first in, first out. A step is one poll of a connection that is not a session yet.
//!
//! Every handshake makes progress: each pass wakes the first of the queue, however busy the sessions are. The budget
//! grows with the time that the sessions took, so that a worker that is fully busy with sessions still spends a share
//! of its time on handshakes. A client's `handshake_timeout` includes the time in the queue, but is checked only when a
//! step runs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{clock, cycle};

/// The smallest and the largest step budget of a pass.
const STEPS_MIN: u32 = 2;
const STEPS_MAX: u32 = 64;
/// The steps of a pass may take this part of the time that sessions took in the previous one: one in `SHARE`.
const SHARE: u32 = 4;
/// A step counts for this part of the average cost of a step: one in `WEIGHT`.
const WEIGHT: u32 = 16;

thread_local! {
    static PACER: RefCell<Pacer> = const { RefCell::new(Pacer::new()) };
    /// Whether the step that runs has ended the pacing of its connection.
    static IS_RELEASED: Cell<bool> = const { Cell::new(false) };
}

/// The step budget and the queue of handshakes of one worker.
struct Pacer {
    /// Steps left in this pass.
    left: u32,
    /// Time spent on the steps of this pass.
    spent: Duration,
    /// Average cost of the latest steps: most are cheap, but one per handshake signs.
    step_cost: Duration,
    /// Queued handshakes, in the order of their tickets.
    waiting: VecDeque<Waker>,
    /// How many tickets were issued, and how many of those were called.
    next_ticket: u64,
    now_serving: u64,
    /// Wakes [`run_pacer`], which waits while steps are left.
    waker: Option<Waker>,
}

impl Pacer {
    const fn new() -> Self {
        Self {
            left: STEPS_MIN,
            spent: Duration::ZERO,
            step_cost: Duration::from_micros(100),
            waiting: VecDeque::new(),
            next_ticket: 0,
            now_serving: 0,
            waker: None,
        }
    }

    /// Whether a step may run now; if not, `ticket` is in the queue.
    fn try_step(&mut self, ticket: &mut Option<u64>, waker: &Waker) -> bool {
        match *ticket {
            Some(own) if own < self.now_serving => *ticket = None,
            Some(_) => return false,
            None if self.left > 0 => self.left -= 1,
            None => {
                *ticket = Some(self.next_ticket);
                self.next_ticket += 1;
                self.waiting.push_back(waker.clone());
            }
        }
        if self.left == 0
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
        ticket.is_none()
    }

    /// Records the cost of a step that has run.
    fn count(&mut self, cost: Duration) {
        self.spent = self.spent.saturating_add(cost);
        self.step_cost = self.step_cost.saturating_mul(WEIGHT - 1).saturating_add(cost) / WEIGHT;
    }

    /// Begins a pass and calls the first tickets in the queue. The previous pass took `last_took`, including its steps.
    fn begin_pass(&mut self, last_took: Duration) {
        let affordable = last_took.saturating_sub(self.spent) / SHARE;
        let steps = affordable.as_nanos() / self.step_cost.as_nanos().max(1);
        self.left = u32::try_from(steps).unwrap_or(STEPS_MAX).clamp(STEPS_MIN, STEPS_MAX);
        while self.left > 0
            && let Some(waker) = self.waiting.pop_front()
        {
            self.left -= 1;
            self.now_serving += 1;
            waker.wake();
        }
    }

    /// Whether steps are left, so that the next pass can wait.
    fn pause(&mut self, waker: &Waker) -> bool {
        let pauses = self.left > 0;
        if pauses {
            self.waker = Some(waker.clone());
            // Do not carry unused budget over: when the next handshake arrives the sessions may be idle.
            self.left = self.left.min(STEPS_MIN);
        } else {
            self.spent = Duration::ZERO;
        }
        pauses
    }
}

/// Ends the pacing of the connection whose step runs: it carries requests, and is no handshake any more.
pub fn release() {
    IS_RELEASED.set(true);
}

/// Runs a connection up to its session. Each poll is one step and waits for the budget, until [`release`] is called.
pub async fn paced<F: Future>(mut steps: Pin<Box<F>>) -> F::Output {
    let (mut ticket, mut is_released) = (None, false);
    poll_fn(|cx| {
        if is_released {
            return steps.as_mut().poll(cx);
        }
        if !PACER.with_borrow_mut(|pacer| pacer.try_step(&mut ticket, cx.waker())) {
            return Poll::Pending;
        }
        let begun = clock::now();
        IS_RELEASED.set(false);
        let polled = steps.as_mut().poll(cx);
        is_released = IS_RELEASED.get();
        PACER.with_borrow_mut(|pacer| pacer.count(clock::now().saturating_duration_since(begun)));
        polled
    })
    .await
}

/// Begins the passes of this thread's worker. Never returns.
pub async fn run_pacer() {
    loop {
        poll_fn(|cx| {
            let pauses = PACER.with_borrow_mut(|pacer| pacer.pause(cx.waker()));
            if pauses { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let begun = clock::now();
        cycle::next().await;
        PACER.with_borrow_mut(|pacer| pacer.begin_pass(clock::now().saturating_duration_since(begun)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn each_pass_runs_its_budget_in_fifo_order() {
        let mut pacer = Pacer::new();
        let waker = Waker::noop();
        let mut tickets = [None; 7];
        let mut taken = Vec::new();
        for pass in 0..4 {
            for (number, ticket) in tickets.iter_mut().enumerate() {
                // Each handshake takes one step, and is polled more often than it is called.
                if !taken.contains(&number) && pacer.try_step(ticket, waker) {
                    taken.push(number);
                }
            }
            let all = [2, 4, 6, 7];
            assert_eq!(taken, (0..all[pass]).collect::<Vec<_>>(), "pass {pass}");
            assert_eq!(pacer.pause(waker), pass == 3);
            pacer.begin_pass(Duration::ZERO);
        }
        assert!(pacer.pause(waker) && pacer.waiting.is_empty());
    }

    /// Returns how many steps run in a pass once the average has settled, if sessions take `sessions` in each pass, a
    /// step takes `step`, and the budget is always spent.
    fn steps_per_pass(sessions: Duration, step: Duration) -> u32 {
        let (mut pacer, waker, mut taken) = (Pacer::new(), Waker::noop(), 0);
        for _ in 0..100 {
            pacer.begin_pass(sessions + step * taken);
            taken = 0;
            while pacer.left > 0 {
                assert!(pacer.try_step(&mut None, waker));
                taken += 1;
            }
            assert!(!pacer.pause(waker));
            (0..taken).for_each(|_| pacer.count(step));
        }
        taken
    }

    #[test]
    fn the_budget_is_a_share_of_the_sessions_time_within_its_bounds() {
        let micros = Duration::from_micros;
        for (sessions, step, steps) in [
            // Sessions are nearly idle: a handshake storm does not raise its own budget, whatever its steps cost.
            (0, 20, 2),
            (0, 100, 2),
            (0, 700, 2),
            (0, 5_000, 2),
            (1_000, 100, 2),
            // Sessions keep the worker busy: steps get a quarter of their time, within the bounds.
            (10_000, 100, 25),
            (10_000, 700, 3),
            (10_000, 5_000, 2),
            (100_000, 100, 64),
            (100_000, 700, 35),
        ] {
            assert_eq!(
                steps_per_pass(micros(sessions), micros(step)),
                steps,
                "{sessions} us of sessions, {step} us a step"
            );
        }
    }

    /// Between two events of a session at most the budgets of two passes run, however many handshakes are queued.
    #[test]
    fn steps_do_not_delay_a_session_on_a_real_runtime() {
        const WAITING: usize = 500;
        const EVENTS: usize = 40;
        let taken = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let session = async {
                for _ in 0..WAITING {
                    let taken = Arc::clone(&taken);
                    tokio::spawn(paced(Box::pin(poll_fn::<(), _>(move |cx| {
                        taken.fetch_add(1, Ordering::Relaxed);
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }))));
                }
                let (mut sender, mut receiver) = tokio::net::UnixStream::pair().unwrap();
                for _ in 0..EVENTS {
                    let before = taken.load(Ordering::Relaxed);
                    sender.write_all(b"x").await.unwrap();
                    assert_eq!(receiver.read(&mut [0; 2]).await.unwrap(), 1);
                    let steps = taken.load(Ordering::Relaxed) - before;
                    assert!(steps <= 2 * STEPS_MAX as usize, "{steps} steps before the session got its byte");
                }
            };
            tokio::select! {
                biased;
                () = cycle::Cycles::new().unwrap().run() => panic!("the cycles ended"),
                () = run_pacer() => panic!("the pacer ended"),
                () = session => {}
            }
        });
        assert!(taken.load(Ordering::Relaxed) >= EVENTS, "the handshakes made progress");
    }

    #[test]
    fn unused_budget_is_not_carried_over() {
        let (mut pacer, waker) = (Pacer::new(), Waker::noop());
        pacer.begin_pass(Duration::from_secs(1));
        assert_eq!(pacer.left, STEPS_MAX);
        assert!(pacer.pause(waker));
        assert_eq!(pacer.left, STEPS_MIN);
    }

    #[test]
    fn a_new_handshake_does_not_take_the_step_of_a_called_one() {
        let mut pacer = Pacer::new();
        let waker = Waker::noop();
        let (mut first, mut late) = ([None; 4], None);
        let steps = first.iter_mut().map(|ticket| pacer.try_step(ticket, waker)).collect::<Vec<_>>();
        assert_eq!(steps, [true, true, false, false]);
        pacer.begin_pass(Duration::ZERO);
        assert!(!pacer.try_step(&mut late, waker));
        assert!(pacer.try_step(&mut first[3], waker) && pacer.try_step(&mut first[2], waker));
        pacer.begin_pass(Duration::ZERO);
        assert!(pacer.try_step(&mut late, waker));
    }

    #[test]
    fn disconnected_waiters_do_not_block_others() {
        let mut pacer = Pacer::new();
        let waker = Waker::noop();
        let mut tickets = [None; 20];
        for ticket in &mut tickets {
            pacer.try_step(ticket, waker);
        }
        // All waiters but the last have disconnected, but their tickets are still called.
        for _ in 0..9 {
            pacer.begin_pass(Duration::ZERO);
        }
        assert!(pacer.try_step(&mut tickets[19], waker));
    }
}
