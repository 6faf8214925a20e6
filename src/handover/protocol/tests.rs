//! A model of both ends with every interleaving of messages, losses, timeouts and the end of either process.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future as _;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

/// One session in the model.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default, Clone)]
struct Life {
    /// Whether the old process seals for it.
    old_seals: bool,
    /// Whether the old process has its keys, frozen or not.
    old_has_keys: bool,
    /// Whether the new process seals for it.
    new_seals: bool,
    /// Whether the new process has its keys, prepared or started.
    new_has_keys: bool,
    /// The number of starts in the new process.
    starts: usize,
    refused: bool,
}

type Ledger = Rc<RefCell<Vec<Life>>>;

fn check(life: &Life) {
    assert!(!(life.old_seals && life.new_seals), "two sealers: {life:?}");
    assert!(!(life.old_has_keys && life.new_seals), "the new process seals, and the old one has the keys: {life:?}");
    assert!(!(life.new_has_keys && life.old_seals), "the old process seals, and the new one has the keys: {life:?}");
    assert!(life.starts <= 1, "started twice: {life:?}");
}

fn change(ledger: &Ledger, id: usize, change: impl FnOnce(&mut Life)) {
    let life = &mut ledger.borrow_mut()[id];
    change(life);
    check(life);
}

/// A frozen session of the old process. Dropping it ends the session.
#[derive(Debug)]
struct Old(usize, Option<Ledger>);

impl Old {
    fn resume(mut self) {
        change(&self.1.take().unwrap(), self.0, |life| life.old_seals = true);
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        if let Some(ledger) = &self.1 {
            change(ledger, self.0, |life| life.old_has_keys = false);
        }
    }
}

impl Erase for Old {
    fn erase(self) {}
}

/// A prepared session of the new process.
struct New(usize, Option<Ledger>);

impl New {
    fn start(mut self) {
        change(&self.1.take().unwrap(), self.0, |life| (life.new_seals, life.starts) = (true, life.starts + 1));
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if let Some(ledger) = &self.1 {
            change(ledger, self.0, |life| life.new_has_keys = false);
        }
    }
}

enum ToNew {
    Prepare(u32, Vec<usize>),
    Commit(Commit),
    Cancel(Cancel),
}

enum ToOld {
    Ack(Ack),
    Cancelled(Cancelled),
}

enum OldState {
    Idle,
    Frozen(Frozen<Old>),
    Offered(Offered<Old>),
    Acknowledged(Acknowledged<Old>),
    Erased(Commit),
    /// It is about to ask the new process to drop the batch.
    Cancels(Cancelling<Old>, Cancel),
    /// It waits for the confirmation.
    Cancelling(Cancelling<Old>),
    /// It has killed the new process and waits for its end.
    Killing(Option<Cancelling<Old>>),
    Done,
}

enum NewState {
    Idle,
    Parsed(Prepared<New>, Ack),
    Waiting(Prepared<New>),
    /// The channel is broken: it waits for the end of the old process.
    TakingOver(Prepared<New>),
    /// It has dropped a batch.
    Dropped(Cancelled),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Old,
    New,
    OldTimesOut,
    OldKills,
    OldGivesUp,
    NewTimesOut,
    NewGivesUp,
    KillOld,
    KillNew,
    LoseToNew,
    LoseToOld,
}

struct World {
    batches: VecDeque<Vec<usize>>,
    old: OldState,
    new: NewState,
    old_runs: bool,
    new_runs: bool,
    to_new: VecDeque<ToNew>,
    to_old: VecDeque<ToOld>,
    next_batch: u32,
    ledger: Ledger,
    faults: usize,
    /// The number of faults after which one happens only if nothing else can.
    faults_max: usize,
}

impl World {
    fn new(sizes: &[usize], faults_max: usize) -> Self {
        let count = sizes.iter().sum();
        let mut ids = 0..count;
        let batches = sizes.iter().map(|size| ids.by_ref().take(*size).collect()).collect();
        let life = Life { old_seals: true, old_has_keys: true, ..Life::default() };
        Self {
            batches,
            old: OldState::Idle,
            new: NewState::Idle,
            old_runs: true,
            new_runs: true,
            to_new: VecDeque::new(),
            to_old: VecDeque::new(),
            next_batch: 0,
            ledger: Rc::new(RefCell::new(vec![life; count])),
            faults: 0,
            faults_max,
        }
    }

    /// Returns the steps that are possible: first those that happen by themselves.
    fn steps(&self) -> Vec<Step> {
        let old_can = self.old_runs
            && match &self.old {
                OldState::Offered(_) | OldState::Cancelling(_) => !self.to_old.is_empty() || !self.new_runs,
                OldState::Killing(_) => !self.new_runs,
                OldState::Done => false,
                _ => true,
            };
        let new_can = self.new_runs
            && match &self.new {
                NewState::Idle => !self.to_new.is_empty(),
                NewState::Waiting(_) => !self.to_new.is_empty() || !self.old_runs,
                NewState::TakingOver(_) => !self.old_runs,
                NewState::Done => false,
                NewState::Parsed(..) | NewState::Dropped(_) => true,
            };
        let killing = matches!(self.old, OldState::Killing(_));
        let is_calm = self.faults >= self.faults_max && (old_can || new_can);
        [
            (Step::Old, old_can),
            (Step::New, new_can),
            (Step::OldTimesOut, self.old_runs && matches!(self.old, OldState::Offered(_))),
            (Step::OldKills, self.old_runs && matches!(self.old, OldState::Cancelling(_))),
            (Step::OldGivesUp, self.old_runs && matches!(self.old, OldState::Cancelling(_))),
            (Step::NewTimesOut, self.new_runs && matches!(self.new, NewState::Waiting(_))),
            (Step::NewGivesUp, self.new_runs && self.old_runs && matches!(self.new, NewState::TakingOver(_))),
            (Step::KillNew, self.new_runs && (killing || !self.is_settled())),
            (Step::KillOld, self.old_runs && !self.is_settled()),
            (Step::LoseToNew, !self.to_new.is_empty()),
            (Step::LoseToOld, !self.to_old.is_empty()),
        ]
        .into_iter()
        .filter(|(step, _)| !is_calm || matches!(step, Step::Old | Step::New))
        .filter_map(|(step, can)| can.then_some(step))
        .collect()
    }

    /// Whether neither process has anything to do.
    fn is_settled(&self) -> bool {
        (!self.old_runs || matches!(self.old, OldState::Done))
            && (!self.new_runs || matches!(self.new, NewState::Idle | NewState::Done) && self.to_new.is_empty())
    }

    fn run(&mut self, step: Step, choose: &mut dyn FnMut(usize) -> usize) {
        if !matches!(step, Step::Old | Step::New) {
            self.faults += 1;
        }
        match step {
            Step::Old => self.old_step(),
            Step::New => self.new_step(choose),
            Step::OldTimesOut => {
                if let OldState::Offered(batch) = std::mem::replace(&mut self.old, OldState::Done) {
                    let (batch, cancel) = batch.cancel();
                    self.old = OldState::Cancels(batch, cancel);
                }
            }
            Step::OldKills => {
                if let OldState::Cancelling(batch) = std::mem::replace(&mut self.old, OldState::Done) {
                    self.old = OldState::Killing(Some(batch));
                }
            }
            // The sessions are lost: their keys are erased, since the new process may have them.
            Step::OldGivesUp => self.old = OldState::Done,
            Step::NewTimesOut => {
                if let NewState::Waiting(batch) = std::mem::replace(&mut self.new, NewState::Done) {
                    self.new = NewState::TakingOver(batch);
                }
            }
            Step::NewGivesUp => {
                if let NewState::TakingOver(batch) = std::mem::replace(&mut self.new, NewState::Done) {
                    self.new = NewState::Dropped(batch.give_up());
                }
            }
            Step::KillOld => {
                (self.old_runs, self.old) = (false, OldState::Done);
                self.to_old.clear();
                self.ledger
                    .borrow_mut()
                    .iter_mut()
                    .for_each(|life| (life.old_seals, life.old_has_keys) = (false, false));
            }
            Step::KillNew => {
                (self.new_runs, self.new) = (false, NewState::Done);
                self.to_new.clear();
                self.ledger
                    .borrow_mut()
                    .iter_mut()
                    .for_each(|life| (life.new_seals, life.new_has_keys) = (false, false));
            }
            Step::LoseToNew => drop(self.to_new.pop_front()),
            Step::LoseToOld => drop(self.to_old.pop_front()),
        }
    }

    fn send(&mut self, message: ToNew) -> bool {
        if self.new_runs {
            self.to_new.push_back(message);
        }
        self.new_runs
    }

    fn old_step(&mut self) {
        self.old = match std::mem::replace(&mut self.old, OldState::Done) {
            OldState::Idle => match self.batches.pop_front() {
                Some(ids) => {
                    let freeze = |id| {
                        change(&self.ledger, id, |life| life.old_seals = false);
                        Old(id, Some(self.ledger.clone()))
                    };
                    let frozen = Frozen::new(self.next_batch, ids.into_iter().map(freeze).collect());
                    self.next_batch += 1;
                    OldState::Frozen(frozen)
                }
                None => OldState::Done,
            },
            OldState::Frozen(frozen) => {
                let send = |number, sessions: &[Old]| {
                    let ids = sessions.iter().map(|session| session.0).collect();
                    self.send(ToNew::Prepare(number, ids)).then_some(()).ok_or(())
                };
                match offer(frozen, send) {
                    Ok(offered) => OldState::Offered(offered),
                    Err((sessions, ())) => {
                        sessions.into_iter().for_each(Old::resume);
                        OldState::Killing(None)
                    }
                }
            }
            OldState::Offered(offered) => match self.to_old.pop_front() {
                Some(ToOld::Ack(ack)) => match offered.acknowledged(&ack) {
                    Ok((accepted, refused)) => {
                        refused.into_iter().for_each(Old::resume);
                        OldState::Acknowledged(accepted)
                    }
                    Err((offered, _)) => OldState::Killing(Some(offered.cancel().0)),
                },
                // The new process has given up an earlier batch.
                Some(ToOld::Cancelled(_)) => {
                    let (batch, cancel) = offered.cancel();
                    OldState::Cancels(batch, cancel)
                }
                None => unreachable!("the closed channel is handled before"),
            },
            OldState::Cancels(batch, cancel) => {
                self.send(ToNew::Cancel(cancel));
                OldState::Cancelling(batch)
            }
            OldState::Cancelling(batch) => match self.to_old.pop_front() {
                Some(ToOld::Cancelled(cancelled)) => match batch.cancelled(&cancelled) {
                    Ok(sessions) => {
                        sessions.into_iter().for_each(Old::resume);
                        // The move stops here. The sessions of the other batches were never frozen.
                        self.batches.clear();
                        OldState::Done
                    }
                    Err((batch, _)) => OldState::Cancelling(batch),
                },
                Some(ToOld::Ack(_)) => OldState::Cancelling(batch),
                None => OldState::Killing(Some(batch)),
            },
            OldState::Acknowledged(accepted) => OldState::Erased(accepted.erase()),
            OldState::Erased(commit) => {
                if self.send(ToNew::Commit(commit)) {
                    OldState::Idle
                } else {
                    OldState::Killing(None)
                }
            }
            OldState::Killing(offered) => {
                assert!(!self.new_runs);
                let ended = PeerEnded::for_test();
                offered.into_iter().flat_map(|batch| batch.resume(&ended)).for_each(Old::resume);
                OldState::Done
            }
            OldState::Done => OldState::Done,
        }
    }

    fn new_step(&mut self, choose: &mut dyn FnMut(usize) -> usize) {
        self.new = match std::mem::replace(&mut self.new, NewState::Done) {
            NewState::Idle => match self.to_new.pop_front() {
                Some(ToNew::Prepare(batch, ids)) => {
                    let parse = |id: usize| {
                        let refused = choose(2) == 1;
                        change(&self.ledger, id, |life| (life.refused, life.new_has_keys) = (refused, !refused));
                        (!refused).then(|| New(id, Some(self.ledger.clone())))
                    };
                    let (prepared, ack) = Prepared::new(batch, ids.into_iter().map(parse).collect());
                    NewState::Parsed(prepared, ack)
                }
                Some(ToNew::Cancel(_)) => NewState::Idle,
                // A commit whose batch was lost.
                _ => NewState::Done,
            },
            NewState::Parsed(prepared, ack) => {
                if self.old_runs {
                    self.to_old.push_back(ToOld::Ack(ack));
                    NewState::Waiting(prepared)
                } else {
                    NewState::TakingOver(prepared)
                }
            }
            NewState::Waiting(prepared) => match self.to_new.pop_front() {
                Some(ToNew::Commit(commit)) => match prepared.start(commit) {
                    Ok(sessions) => {
                        sessions.into_iter().for_each(New::start);
                        NewState::Idle
                    }
                    Err((prepared, _)) => NewState::TakingOver(prepared),
                },
                Some(ToNew::Cancel(cancel)) => match prepared.cancel(&cancel) {
                    Ok(cancelled) => NewState::Dropped(cancelled),
                    Err((prepared, _)) => NewState::TakingOver(prepared),
                },
                _ => NewState::TakingOver(prepared),
            },
            NewState::Dropped(cancelled) => {
                if self.old_runs {
                    self.to_old.push_back(ToOld::Cancelled(cancelled));
                }
                NewState::Idle
            }
            NewState::TakingOver(prepared) => {
                assert!(!self.old_runs);
                prepared.start_after_end(&OldEnded::for_test()).into_iter().for_each(New::start);
                NewState::Done
            }
            NewState::Done => NewState::Done,
        }
    }

    /// Runs the world to its end, and checks where each session is.
    fn run_to_end(mut self, choose: &mut dyn FnMut(usize) -> usize) {
        loop {
            // The end of the new process closes the channel: an answer that it has sent is read before.
            let closed = !self.new_runs && self.to_old.is_empty() && matches!(self.old, OldState::Offered(_));
            if closed && let OldState::Offered(batch) = std::mem::replace(&mut self.old, OldState::Done) {
                self.old = OldState::Killing(Some(batch.cancel().0));
            }
            let steps = self.steps();
            let Some(step) = (!steps.is_empty()).then(|| steps[choose(steps.len())]) else { break };
            self.run(step, choose);
        }
        assert!(self.is_settled(), "a process waits for ever");
        for life in self.ledger.borrow().iter() {
            check(life);
            assert_eq!(life.old_seals, life.old_has_keys, "frozen for ever: {life:?}");
            assert_eq!(life.new_seals, life.new_has_keys, "prepared for ever: {life:?}");
            if self.faults == 0 {
                assert_eq!((life.old_seals, life.new_seals), (life.refused, !life.refused), "lost: {life:?}");
            }
        }
    }
}

/// Offers a batch with a packet that is sent at once or not at all.
fn offer<S, E>(frozen: Frozen<S>, send: impl FnOnce(u32, &[S]) -> Result<(), E>) -> Result<Offered<S>, (Vec<S>, E)> {
    let offering = std::pin::pin!(frozen.offer(async |number, sessions: &[S]| send(number, sessions)));
    match offering.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(offered) => offered,
        Poll::Pending => unreachable!("nothing waits"),
    }
}

/// Offers a batch whose packet is sent.
fn sent<S: fmt::Debug>(frozen: Frozen<S>) -> Offered<S> {
    offer(frozen, |_, _| Ok::<(), ()>(())).unwrap()
}

/// Runs `run` once for each sequence of choices.
fn explore(mut run: impl FnMut(&mut dyn FnMut(usize) -> usize)) -> usize {
    let mut path: Vec<(usize, usize)> = Vec::new();
    for count in 1.. {
        let mut at = 0;
        run(&mut |options| {
            if at == path.len() {
                path.push((0, options));
            }
            at += 1;
            path[at - 1].0
        });
        while path.last().is_some_and(|(choice, options)| choice + 1 == *options) {
            path.pop();
        }
        let Some((choice, _)) = path.last_mut() else { return count };
        *choice += 1;
    }
    unreachable!("the choices are finite")
}

#[test]
fn no_interleaving_makes_two_sealers_or_loses_a_session_without_a_fault() {
    for (sizes, faults_max, at_least) in
        [(&[1][..], 99, 1_000), (&[2], 4, 1_000), (&[1, 1], 2, 1_000), (&[2, 1], 2, 1_000), (&[1, 1, 1], 1, 1_000)]
    {
        let count = explore(|choose| World::new(sizes, faults_max).run_to_end(choose));
        assert!(count > at_least, "{sizes:?}: only {count} interleavings");
        println!("{sizes:?}, {faults_max} faults: {count} interleavings");
    }
}

proptest! {
    #[test]
    fn large_batches_never_have_two_sealers(
        sizes in prop::collection::vec(1..=BATCH_MAX, 1..6),
        choices in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut choices = choices.into_iter();
        World::new(&sizes, usize::MAX).run_to_end(&mut |options| match choices.next() {
            Some(choice) if choice >= 230 => usize::from(choice) % options,
            _ => 0,
        });
    }
}

#[test]
fn an_answer_that_does_not_fit_the_batch_leaves_it_offered() {
    let ledger: Ledger = Rc::new(RefCell::new(vec![Life::default(); 3]));
    let mut offered = sent(Frozen::new(7, (0..3).map(|id| Old(id, Some(ledger.clone()))).collect()));
    let ack = |batch, refused: &[u16]| Ack { batch, refused: refused.to_vec(), longest_pause: 0 };
    for (ack, expected) in [
        (ack(6, &[]), Mismatch::Batch(7, 6)),
        (ack(7, &[3]), Mismatch::Refused),
        (ack(7, &[1, 1]), Mismatch::Refused),
        (ack(7, &[2, 0]), Mismatch::Refused),
    ] {
        let (batch, mismatch) = offered.acknowledged(&ack).unwrap_err();
        assert_eq!(mismatch, expected);
        offered = batch;
    }
    let (accepted, refused) = offered.acknowledged(&ack(7, &[1])).unwrap();
    assert_eq!((accepted.len(), refused.iter().map(|session| session.0).collect::<Vec<_>>()), (2, vec![1]));
}

#[test]
fn a_commit_of_another_batch_starts_nothing() {
    let (prepared, ack) = Prepared::new(3, vec![Some("a"), None, Some("b")]);
    assert_eq!(ack.refused, [1]);
    let (prepared, mismatch) = prepared.start(Commit { batch: 2 }).unwrap_err();
    assert_eq!(mismatch, Mismatch::Batch(3, 2));
    assert_eq!(prepared.start(Commit { batch: 3 }).unwrap(), ["a", "b"]);
}

#[test]
fn a_batch_is_taken_back_only_by_its_own_confirmation() {
    let (batch, cancel) = sent(Frozen::new(5, vec!["a", "b"])).cancel();
    let (prepared, _) = Prepared::new(4, vec![Some("x")]);
    let (prepared, mismatch) = prepared.cancel(&cancel).unwrap_err();
    assert_eq!(mismatch, Mismatch::Batch(4, 5));
    let (batch, mismatch) = batch.cancelled(&prepared.give_up()).unwrap_err();
    assert_eq!((mismatch, batch.len()), (Mismatch::Batch(5, 4), 2));
    let (prepared, _) = Prepared::new(5, vec![Some("a"), Some("b")]);
    assert_eq!(batch.cancelled(&prepared.cancel(&cancel).unwrap()).unwrap(), ["a", "b"]);
}

#[test]
fn debug_shows_no_session() {
    let (prepared, _) = Prepared::new(3, vec![Some("secret")]);
    let frozen = Frozen::new(4, vec!["secret"]);
    assert_eq!(format!("{frozen:?}"), "Frozen { batch: 4, sessions: 1 }");
    assert!(!format!("{prepared:?} {:?}", sent(frozen)).contains("secret"));
}
