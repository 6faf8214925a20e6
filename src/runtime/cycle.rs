//! Cycles of a worker: a task with more to do resumes only after the I/O driver was polled.
//!
//! A cycle is one pass of the event loop.
//!
//! A task that wakes itself keeps the run queue from becoming empty, and tokio polls its I/O driver only when the queue
//! is empty or after `event_interval` tasks. Until then no other session learns that it has bytes to read. A task that
//! waits for a cycle is not in the run queue: the driver itself reports the event that wakes it. Each cycle wakes one
//! of the queued tasks, first in, first out, and the sessions whose events the driver reports run in the same pass. So
//! a session with little to do waits for one poll of a busy one, however many busy ones there are.
//!
//! This depends on one documented property: the readiness of a socket, once cleared (`UnixStream::try_io`), is set only
//! by the I/O driver. `tokio::task::yield_now` guarantees less: a task that yields may run again before the driver is
//! polled.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::mem;
use std::task::{Poll, Waker};

use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors that the cycles of a worker use: both ends of a socket pair.
pub const DESCRIPTORS: usize = 2;

thread_local! {
    static CYCLE: RefCell<Cycle> = const { RefCell::new(Cycle::new()) };
}

struct Cycle {
    /// Each byte sent is an event that the driver reports. `None` on a thread without a worker.
    sender: Option<std::os::unix::net::UnixStream>,
    /// A byte was sent that the driver has not reported.
    signalled: bool,
    /// Tasks that resume in the next cycle.
    next: Vec<Waker>,
    /// Tasks with more to do, first in, first out; at most one entry per [`Ticket`].
    queue: VecDeque<Waker>,
    /// The number of the next ticket, and that of the first task in the queue. Zero is not a ticket.
    given: u64,
    called: u64,
    /// Number of cycles that have begun, modulo 2^32.
    number: u32,
}

impl Cycle {
    const fn new() -> Self {
        Self {
            sender: None,
            signalled: false,
            next: Vec::new(),
            queue: VecDeque::new(),
            given: 1,
            called: 1,
            number: 0,
        }
    }

    /// Requests another cycle. Returns false if none can begin, as on a thread without a worker.
    fn signal(&mut self) -> bool {
        let Some(mut sender) = self.sender.as_ref() else { return false };
        // One byte per cycle is enough. It is read before the next one is sent.
        self.signalled = self.signalled || sender.write_all(&[0]).is_ok();
        self.signalled
    }

    /// Begins a cycle and returns the tasks to wake.
    fn begin(&mut self) -> Vec<Waker> {
        self.signalled = false;
        self.number = self.number.wrapping_add(1);
        let mut woken = mem::take(&mut self.next);
        if let Some(first) = self.queue.pop_front() {
            self.called += 1;
            woken.push(first);
        }
        if !self.queue.is_empty() && !self.signal() {
            woken.extend(mem::take(&mut self.queue));
            self.called = self.given;
        }
        woken
    }
}

/// A task's position in the queue. The task keeps it if another event wakes it first.
#[derive(Debug, Default)]
pub struct Ticket(u64);

impl Ticket {
    /// Queues the task, unless it is queued already. Without a worker the task is woken at once.
    pub fn wake_in_order(&mut self, waker: &Waker) {
        CYCLE.with_borrow_mut(|cycle| {
            if self.0 >= cycle.called {
                return;
            }
            if !cycle.signal() {
                return waker.wake_by_ref();
            }
            cycle.queue.push_back(waker.clone());
            self.0 = cycle.given;
            cycle.given += 1;
        });
    }
}

/// The cycles of one worker.
#[derive(Debug)]
pub struct Cycles {
    sender: std::os::unix::net::UnixStream,
    receiver: UnixStream,
}

impl Cycles {
    /// Creates the socket pair. Must be called in the context of the worker's runtime.
    ///
    /// # Errors
    /// If the socket pair cannot be created or registered with the runtime.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = std::os::unix::net::UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { sender, receiver: UnixStream::from_std(receiver)? })
    }

    /// Runs the cycles of the current thread until its runtime shuts down.
    pub async fn run(self) {
        let Self { sender, receiver } = self;
        CYCLE.with_borrow_mut(|cycle| cycle.sender = Some(sender));
        let _stop = Stop;
        // An error means that the runtime's driver has shut down.
        while receiver.readable().await.is_ok() {
            // There is at most one byte.
            let _ = receiver.try_read(&mut [0; 2]);
            let cleared: io::Result<()> = receiver.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
            drop(cleared);
            let waiting = CYCLE.with_borrow_mut(Cycle::begin);
            // Wake outside the borrow: a waker may be the last reference to a task, whose destructor then runs here.
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Wakes all waiting tasks when the cycles end.
struct Stop;

impl Drop for Stop {
    fn drop(&mut self) {
        let waiting = CYCLE.with_borrow_mut(|cycle| {
            cycle.sender = None;
            cycle.begin()
        });
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Limits what a task does in one cycle of its worker.
#[derive(Debug, Default)]
pub struct Allowance {
    cycle: u32,
    used: u32,
    ticket: Ticket,
}

impl Allowance {
    /// Takes one of `max` units per cycle. If none is left, returns false and queues the task for a later cycle.
    /// Without a worker there is no limit.
    pub fn take(&mut self, max: u32, waker: &Waker) -> bool {
        let Some(number) = CYCLE.with_borrow(|cycle| cycle.sender.as_ref().map(|_| cycle.number)) else { return true };
        if self.cycle != number {
            (self.cycle, self.used) = (number, 0);
        }
        let is_allowed = self.used < max;
        if is_allowed {
            self.used += 1;
        } else {
            self.ticket.wake_in_order(waker);
        }
        is_allowed
    }

    /// Restores all units, because the task waits for an event of the driver: what it does then is in a later cycle.
    pub fn restore(&mut self) {
        self.used = 0;
    }
}

/// Waits for the next cycle of this thread's worker. Returns at once without a worker.
pub async fn next() {
    let mut begun = None;
    poll_fn(|cx| {
        CYCLE.with_borrow_mut(|cycle| {
            let begun = *begun.get_or_insert_with(|| {
                cycle.next.push(cx.waker().clone());
                cycle.number
            });
            if cycle.number != begun || !cycle.signal() { Poll::Ready(()) } else { Poll::Pending }
        })
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncReadExt as _;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    /// Returns a runtime with the longest `event_interval`: tokio polls its driver only when the run queue is empty.
    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().event_interval(u32::MAX).build().unwrap()
    }

    fn block_on(test: impl Future<Output = ()>) {
        runtime().block_on(async {
            tokio::select! {
                // The cycles start before any task waits for one, as in a worker.
                biased;
                () = Cycles::new().unwrap().run() => panic!("the cycles ended"),
                () = test => {}
            }
        });
    }

    fn pair() -> (std::os::unix::net::UnixStream, UnixStream) {
        let (sender, receiver) = std::os::unix::net::UnixStream::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        (sender, UnixStream::from_std(receiver).unwrap())
    }

    #[test]
    fn the_driver_is_polled_before_a_task_resumes() {
        block_on(async {
            let (mut sender, receiver) = pair();
            next().await;
            for round in 0..100 {
                sender.write_all(b"x").unwrap();
                let mut byte = [0; 2];
                // The byte is in the socket, but tokio does not observe it before its driver is polled.
                assert!(receiver.try_read(&mut byte).is_err(), "{round}");
                next().await;
                assert_eq!(receiver.try_read(&mut byte).ok(), Some(1), "{round}");
                assert!(receiver.try_read(&mut byte).is_err(), "{round}: this clears the readiness");
            }
        });
    }

    #[test]
    fn busy_tasks_do_not_delay_an_event_of_a_light_one() {
        const BUSY: usize = 16;
        const ROUNDS: usize = 50;
        let polls = Arc::new(AtomicUsize::new(0));
        block_on(async {
            for _ in 0..BUSY {
                let polls = Arc::clone(&polls);
                let mut ticket = Ticket::default();
                tokio::spawn(poll_fn::<(), _>(move |cx| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    ticket.wake_in_order(cx.waker());
                    Poll::Pending
                }));
            }
            let (mut sender, mut receiver) = pair();
            // Wait until each busy task has started.
            while polls.load(Ordering::Relaxed) < BUSY {
                next().await;
            }
            for _ in 0..ROUNDS {
                let before = polls.load(Ordering::Relaxed);
                sender.write_all(b"x").unwrap();
                // A read shorter than the buffer clears the readiness.
                assert_eq!(receiver.read(&mut [0; 2]).await.unwrap(), 1);
                let polled = polls.load(Ordering::Relaxed) - before;
                // One poll before the driver reports the event, and one in the same pass, however many tasks are busy.
                assert!(polled <= 2, "{polled} polls of busy tasks before the light one got its byte");
            }
        });
        assert!(polls.load(Ordering::Relaxed) >= ROUNDS, "the busy tasks made progress");
    }

    #[test]
    fn busy_tasks_share_cycles_fairly_and_are_queued_at_most_once() {
        block_on(async {
            let order = Arc::new(std::sync::Mutex::new(Vec::new()));
            let mut wakers: Vec<Waker> = Vec::new();
            let started = Arc::new(std::sync::Mutex::new(Vec::new()));
            for number in 0..3 {
                let (order, started) = (Arc::clone(&order), Arc::clone(&started));
                let mut ticket = Ticket::default();
                tokio::spawn(poll_fn::<(), _>(move |cx| {
                    order.lock().unwrap().push(number);
                    started.lock().unwrap().push(cx.waker().clone());
                    ticket.wake_in_order(cx.waker());
                    Poll::Pending
                }));
            }
            while order.lock().unwrap().len() < 3 {
                next().await;
            }
            wakers.append(&mut started.lock().unwrap());
            for round in 0..20 {
                order.lock().unwrap().clear();
                // The extra wake-up polls the last task once more, but does not queue it again.
                wakers[2].wake_by_ref();
                while order.lock().unwrap().len() < 7 {
                    next().await;
                }
                let polled = order.lock().unwrap().clone();
                for number in 0..2 {
                    let polls = polled.iter().filter(|polled| **polled == number).count();
                    assert!((1..=3).contains(&polls), "{round}: {polled:?}");
                }
                assert!(CYCLE.with_borrow(|cycle| cycle.queue.len()) <= 3, "no task is in the queue twice");
            }
        });
    }

    #[test]
    fn an_allowance_is_restored_in_the_next_cycle() {
        block_on(async {
            let mut allowance = Allowance::default();
            for cycle in 0..3 {
                next().await;
                poll_fn(|cx| {
                    let taken = (0..10).filter(|_| allowance.take(4, cx.waker())).count();
                    assert_eq!(taken, 4, "{cycle}");
                    Poll::Ready(())
                })
                .await;
            }
        });
        let mut allowance = Allowance::default();
        assert!((0..10).all(|_| allowance.take(4, Waker::noop())), "no limit without a worker");
    }

    #[test]
    fn an_allowance_is_restored_by_a_wait_for_the_driver() {
        block_on(async {
            next().await;
            poll_fn(|cx| {
                let mut allowance = Allowance::default();
                assert_eq!((0..10).filter(|_| allowance.take(4, cx.waker())).count(), 4);
                allowance.restore();
                assert_eq!((0..10).filter(|_| allowance.take(4, cx.waker())).count(), 4);
                Poll::Ready(())
            })
            .await;
        });
    }

    #[test]
    fn without_a_worker_a_task_resumes_at_once() {
        runtime().block_on(next());
    }
}
