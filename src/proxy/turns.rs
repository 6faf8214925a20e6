//! Turns: how a worker keeps those that come in from holding up those that are in.
//!
//! A connection that becomes a session costs about as much as twenty messages, most of it in one piece, for the TLS
//! handshake. After an outage thousands come at once, and all of them are ready before the next message is. So what
//! connections do before they are sessions is done in turns: a few at each turn of the worker, which between two of them
//! asks the kernel what has come and lets the sessions have it. Who finds no turn left waits in line.
//!
//! Nobody waits for ever: each turn of the worker takes the first of the line, however busy the sessions are, and the longer
//! the sessions took the more of them, so that a worker that is wholly busy with sessions still spends a share of its time
//! on those that come. A client's `handshake_timeout` goes on meanwhile, and is looked at when its turn comes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::clock;

/// The fewest and the most steps that there are at a turn of a worker.
const STEPS_MIN: u32 = 2;
const STEPS_MAX: u32 = 64;
/// What a step costs, about: a TLS handshake has one that costs more, and three or four that cost less.
const STEP_COST: Duration = Duration::from_micros(100);
/// What part of a turn's time the steps of the next one may take.
const SHARE: u32 = 4;

thread_local! {
    static LINE: RefCell<Line> = const { RefCell::new(Line::new()) };
}

/// Who waits for a step on this worker.
struct Line {
    /// The steps that are left at this turn.
    left: u32,
    /// The places of those that wait, in order.
    waiting: VecDeque<Waker>,
    /// How many places were given out, and how many of those were called.
    given: u64,
    called: u64,
    /// Who begins the turns, while there are steps left.
    resting: Option<Waker>,
}

impl Line {
    const fn new() -> Self {
        Self { left: STEPS_MIN, waiting: VecDeque::new(), given: 0, called: 0, resting: None }
    }

    /// Whether a step may be taken now; if not, `place` is one in the line.
    fn take_step(&mut self, place: &mut Option<u64>, waker: &Waker) -> bool {
        match *place {
            Some(own) if own < self.called => *place = None,
            Some(_) => return false,
            None if self.left > 0 => self.left -= 1,
            None => {
                *place = Some(self.given);
                self.given += 1;
                self.waiting.push_back(waker.clone());
            }
        }
        if self.left == 0
            && let Some(resting) = self.resting.take()
        {
            resting.wake();
        }
        place.is_none()
    }

    /// A new turn, after one that took so long: calls the first of the line.
    fn begin_turn(&mut self, last_took: Duration) {
        let affordable = last_took.as_micros() / STEP_COST.as_micros() / u128::from(SHARE);
        self.left = u32::try_from(affordable).unwrap_or(STEPS_MAX).clamp(STEPS_MIN, STEPS_MAX);
        while self.left > 0
            && let Some(waker) = self.waiting.pop_front()
        {
            self.left -= 1;
            self.called += 1;
            waker.wake();
        }
    }

    /// Whether there are steps left, so that the next turn can wait.
    fn rest(&mut self, waker: &Waker) -> bool {
        let rests = self.left > 0;
        if rests {
            self.resting = Some(waker.clone());
        }
        rests
    }
}

/// Does what a connection does before it is a session, each of its steps when there is one left for it.
pub(super) async fn in_turn<F: Future>(mut steps: Pin<Box<F>>) -> F::Output {
    let mut place = None;
    poll_fn(|cx| {
        let may = LINE.with_borrow_mut(|line| line.take_step(&mut place, cx.waker()));
        if may { steps.as_mut().poll(cx) } else { Poll::Pending }
    })
    .await
}

/// Begins the turns of this thread's worker, for as long as it is polled.
pub(super) async fn keep() {
    loop {
        poll_fn(|cx| {
            let rests = LINE.with_borrow_mut(|line| line.rest(cx.waker()));
            if rests { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let begun = clock::now();
        // Comes back after the kernel was asked what has come.
        tokio::task::yield_now().await;
        LINE.with_borrow_mut(|line| line.begin_turn(clock::now().saturating_duration_since(begun)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_has_its_steps_and_the_line_its_order() {
        let mut line = Line::new();
        let waker = Waker::noop();
        let mut places = [None; 7];
        let mut taken = Vec::new();
        for turn in 0..4 {
            for (who, place) in places.iter_mut().enumerate() {
                // Each takes one step, and asks more often than it is called.
                if !taken.contains(&who) && line.take_step(place, waker) {
                    taken.push(who);
                }
            }
            let all = [2, 4, 6, 7];
            assert_eq!(taken, (0..all[turn]).collect::<Vec<_>>(), "turn {turn}");
            assert_eq!(line.rest(waker), turn == 3);
            line.begin_turn(Duration::ZERO);
        }
        assert!(line.rest(waker) && line.waiting.is_empty());
    }

    #[test]
    fn a_long_turn_is_followed_by_more_steps() {
        for (millis, steps) in [(0, 2), (1, 2), (2, 5), (10, 25), (25, 62), (26, 64), (60_000, 64)] {
            let (mut line, waker) = (Line::new(), Waker::noop());
            line.begin_turn(Duration::from_millis(millis));
            let taken = std::iter::repeat_with(|| line.take_step(&mut None, waker)).take_while(|taken| *taken).count();
            assert_eq!(taken, steps, "after {millis} ms");
        }
    }

    #[test]
    fn who_comes_later_does_not_get_the_step_of_who_was_called() {
        let mut line = Line::new();
        let waker = Waker::noop();
        let (mut first, mut late) = ([None; 4], None);
        let steps = first.iter_mut().map(|place| line.take_step(place, waker)).collect::<Vec<_>>();
        assert_eq!(steps, [true, true, false, false]);
        line.begin_turn(Duration::ZERO);
        assert!(!line.take_step(&mut late, waker));
        assert!(line.take_step(&mut first[3], waker) && line.take_step(&mut first[2], waker));
        line.begin_turn(Duration::ZERO);
        assert!(line.take_step(&mut late, waker));
    }

    #[test]
    fn who_went_away_keeps_nobody() {
        let mut line = Line::new();
        let waker = Waker::noop();
        let mut places = [None; 20];
        for place in &mut places {
            line.take_step(place, waker);
        }
        // All that wait but the last are gone, and their places are called all the same.
        for _ in 0..9 {
            line.begin_turn(Duration::ZERO);
        }
        assert!(line.take_step(&mut places[19], waker));
    }
}
