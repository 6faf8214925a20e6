//! Turns: how a worker keeps those that come in from holding up those that are in.
//!
//! A connection that becomes a session costs about as much as twenty messages, most of it in one piece, for the TLS
//! handshake. After an outage thousands come at once, and all of them are ready before the next message is. So what
//! connections do before they are sessions is done in turns: a few at each turn of the worker, which between two of them
//! asks the kernel what has come and lets the sessions have it. Who finds no turn left waits in line.
//!
//! Nobody waits for ever: each turn of the worker takes the first of the line, however busy the sessions are, and more of them
//! the longer the sessions took, so that a worker that is wholly busy with sessions still spends a share of its time on
//! those that come. A client's `handshake_timeout` goes on meanwhile, and is looked at when its turn comes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::{clock, cycle};

/// The fewest and the most steps that there are at a turn of a worker.
const STEPS_MIN: u32 = 2;
const STEPS_MAX: u32 = 64;
/// What part of the sessions' time in a turn the steps of the next one may take.
const SHARE: u32 = 4;
/// How much a step counts in the average of what steps cost.
const WEIGHT: u32 = 16;

thread_local! {
    static PACER: RefCell<Pacer> = const { RefCell::new(Pacer::new()) };
}

/// Who waits for a step on this worker.
struct Pacer {
    /// The steps that are left at this turn.
    left: u32,
    /// What the steps of this turn have cost.
    spent: Duration,
    /// What a step costs, on average of the last ones: most cost little, but one of a handshake signs.
    step_cost: Duration,
    /// The places of those that wait, in order.
    waiting: VecDeque<Waker>,
    /// How many places were given out, and how many of those were called.
    next_ticket: u64,
    now_serving: u64,
    /// Who begins the turns, while there are steps left.
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

    /// Whether a step may be taken now; if not, `ticket` is one in the line.
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

    /// What a step cost that was taken.
    fn count(&mut self, cost: Duration) {
        self.spent = self.spent.saturating_add(cost);
        self.step_cost = self.step_cost.saturating_mul(WEIGHT - 1).saturating_add(cost) / WEIGHT;
    }

    /// A new turn, after one that took so long, steps and all: calls the first of the line.
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

    /// Whether there are steps left, so that the next turn can wait.
    fn pause(&mut self, waker: &Waker) -> bool {
        let pauses = self.left > 0;
        if pauses {
            self.waker = Some(waker.clone());
            // Who comes later comes to sessions that may have nothing to do any more.
            self.left = self.left.min(STEPS_MIN);
        } else {
            self.spent = Duration::ZERO;
        }
        pauses
    }
}

/// Does what a connection does before it is a session, each of its steps when there is one left for it.
pub async fn paced<F: Future>(mut steps: Pin<Box<F>>) -> F::Output {
    let mut ticket = None;
    poll_fn(|cx| {
        if !PACER.with_borrow_mut(|pacer| pacer.try_step(&mut ticket, cx.waker())) {
            return Poll::Pending;
        }
        let begun = clock::now();
        let polled = steps.as_mut().poll(cx);
        PACER.with_borrow_mut(|pacer| pacer.count(clock::now().saturating_duration_since(begun)));
        polled
    })
    .await
}

/// Begins the turns of this thread's worker, for as long as it is polled.
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
    fn each_turn_has_its_steps_and_the_line_its_order() {
        let mut pacer = Pacer::new();
        let waker = Waker::noop();
        let mut tickets = [None; 7];
        let mut taken = Vec::new();
        for pass in 0..4 {
            for (who, ticket) in tickets.iter_mut().enumerate() {
                // Each takes one step, and asks more often than it is called.
                if !taken.contains(&who) && pacer.try_step(ticket, waker) {
                    taken.push(who);
                }
            }
            let all = [2, 4, 6, 7];
            assert_eq!(taken, (0..all[pass]).collect::<Vec<_>>(), "turn {pass}");
            assert_eq!(pacer.pause(waker), pass == 3);
            pacer.begin_pass(Duration::ZERO);
        }
        assert!(pacer.pause(waker) && pacer.waiting.is_empty());
    }

    /// How many steps are taken at a turn, once turns follow each other in which sessions take so long and a step costs so
    /// much, and all that may take one do.
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
    fn steps_take_their_share_of_the_sessions_time_and_no_more() {
        let micros = Duration::from_micros;
        for (sessions, step, steps) in [
            // Sessions do next to nothing: a storm does not feed itself, whatever its steps cost.
            (0, 20, 2),
            (0, 100, 2),
            (0, 700, 2),
            (0, 5_000, 2),
            (1_000, 100, 2),
            // They take all there is: a quarter of that.
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

    /// On a real runtime: between two events of a session no more steps are taken than two turns have, however many wait.
    #[test]
    fn steps_hold_up_no_session_on_a_real_runtime() {
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
                () = run_pacer() => panic!("the turns ended"),
                () = session => {}
            }
        });
        assert!(taken.load(Ordering::Relaxed) >= EVENTS, "those that come in get their steps");
    }

    #[test]
    fn what_was_not_used_is_not_kept() {
        let (mut pacer, waker) = (Pacer::new(), Waker::noop());
        pacer.begin_pass(Duration::from_secs(1));
        assert_eq!(pacer.left, STEPS_MAX);
        assert!(pacer.pause(waker));
        assert_eq!(pacer.left, STEPS_MIN);
    }

    #[test]
    fn who_comes_later_does_not_get_the_step_of_who_was_called() {
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
    fn who_went_away_keeps_nobody() {
        let mut pacer = Pacer::new();
        let waker = Waker::noop();
        let mut tickets = [None; 20];
        for ticket in &mut tickets {
            pacer.try_step(ticket, waker);
        }
        // All that wait but the last are gone, and their places are called all the same.
        for _ in 0..9 {
            pacer.begin_pass(Duration::ZERO);
        }
        assert!(pacer.try_step(&mut tickets[19], waker));
    }
}
