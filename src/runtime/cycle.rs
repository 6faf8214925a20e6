//! Cycles of a worker: a task that has more to do goes on only after the I/O driver was polled.
//!
//! A task that wakes itself keeps the run queue from getting empty, and tokio polls its I/O driver only when the queue is
//! empty or after `event_interval` tasks. Meanwhile no other session learns that it has something to read. A task that
//! waits for a cycle is not in the run queue: the driver itself reports the event that wakes it. Each cycle wakes one of the
//! tasks that have more to do, first in, first out, and the sessions whose events the driver reports run beside it. So a
//! session with little to do waits for one poll of one that has much, however many of those there are.
//!
//! This depends on one documented property alone: the readiness of a socket, once cleared (`UnixStream::try_io`), is set
//! by the I/O driver and by nothing else. `tokio::task::yield_now` promises less: a task that yields may run again before
//! the driver is polled.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::mem;
use std::task::{Poll, Waker};

use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors that the cycles of a worker take: both ends of a socket pair.
pub const DESCRIPTORS: usize = 2;

thread_local! {
    static CYCLE: RefCell<Cycle> = const { RefCell::new(Cycle::new()) };
}

struct Cycle {
    /// Each byte is an event that the driver reports. Absent on a thread without a worker.
    sender: Option<std::os::unix::net::UnixStream>,
    /// There is a byte that the driver has not reported.
    signalled: bool,
    /// The tasks that go on in the next cycle.
    next: Vec<Waker>,
    /// The tasks that have more to do, no more than the worker has.
    queue: VecDeque<Waker>,
    /// The ticket of the next task that enters the queue, and that of the first one in it. Zero is none.
    given: u64,
    called: u64,
    /// How many cycles have begun, modulo 2^32.
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

    /// Lets another cycle begin. False where there is no worker.
    fn signal(&mut self) -> bool {
        let Some(mut sender) = self.sender.as_ref() else { return false };
        // One event a cycle is enough, and its byte is read before the next one is sent.
        self.signalled = self.signalled || sender.write_all(&[0]).is_ok();
        self.signalled
    }

    /// Begins a cycle; the tasks to wake.
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

/// The place of a task that has more to do. A task that is woken by something else meanwhile keeps it.
#[derive(Debug, Default)]
pub struct Ticket(u64);

impl Ticket {
    /// Wakes the task when it is its turn in a cycle; at once where there is no worker.
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
    /// Needs the context of the worker's runtime.
    ///
    /// # Errors
    /// If the system gives no socket pair.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = std::os::unix::net::UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { sender, receiver: UnixStream::from_std(receiver)? })
    }

    /// Runs the cycles on the thread that polls this, until its runtime ends.
    pub async fn run(self) {
        let Self { sender, receiver } = self;
        CYCLE.with_borrow_mut(|cycle| cycle.sender = Some(sender));
        let _stop = Stop;
        // An error means that the runtime has no driver any more.
        while receiver.readable().await.is_ok() {
            // There is at most one byte.
            let _ = receiver.try_read(&mut [0; 2]);
            let cleared: io::Result<()> = receiver.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
            drop(cleared);
            let waiting = CYCLE.with_borrow_mut(Cycle::begin);
            // Not under the borrow: a waker may be the last reference to a task that waits itself.
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Wakes every task that still waits when the cycles end.
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

/// Counts what a task does in one cycle of its worker.
#[derive(Debug, Default)]
pub struct Allowance {
    cycle: u32,
    used: u32,
    ticket: Ticket,
}

impl Allowance {
    /// Takes one of the `max` that there are in a cycle. If none is left the task is woken when it is its turn. Without a
    /// worker there is no limit.
    pub fn take(&mut self, max: u32, waker: &Waker) -> bool {
        let Some(number) = CYCLE.with_borrow(|cycle| cycle.sender.as_ref().map(|_| cycle.number)) else { return true };
        if self.cycle != number {
            (self.cycle, self.used) = (number, 0);
        }
        let may = self.used < max;
        if may {
            self.used += 1;
        } else {
            self.ticket.wake_in_order(waker);
        }
        may
    }
}

/// Becomes ready in the next cycle of this thread's worker.
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

    /// The widest interval: only an empty run queue makes tokio poll its driver.
    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().event_interval(u32::MAX).build().unwrap()
    }

    fn block_on(test: impl Future<Output = ()>) {
        runtime().block_on(async {
            tokio::select! {
                // The cycles run before anything waits for one, as in a worker.
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
    fn the_driver_was_polled_before_a_task_goes_on() {
        block_on(async {
            let (mut sender, receiver) = pair();
            next().await;
            for round in 0..100 {
                sender.write_all(b"x").unwrap();
                let mut byte = [0; 2];
                // The socket has the byte, and tokio does not know of it before its driver is polled.
                assert!(receiver.try_read(&mut byte).is_err(), "{round}");
                next().await;
                assert_eq!(receiver.try_read(&mut byte).ok(), Some(1), "{round}");
                assert!(receiver.try_read(&mut byte).is_err(), "{round}: this clears the readiness");
            }
        });
    }

    #[test]
    fn busy_tasks_keep_no_event_from_a_light_one() {
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
            // Each busy task has begun.
            while polls.load(Ordering::Relaxed) < BUSY {
                next().await;
            }
            for _ in 0..ROUNDS {
                let before = polls.load(Ordering::Relaxed);
                sender.write_all(b"x").unwrap();
                // The buffer has more room than there are bytes, which clears the readiness.
                assert_eq!(receiver.read(&mut [0; 2]).await.unwrap(), 1);
                let polled = polls.load(Ordering::Relaxed) - before;
                // One poll while the event was not known, and one beside it, however many there are.
                assert!(polled <= 2, "{polled} polls of busy tasks before the light one got its byte");
            }
        });
        assert!(polls.load(Ordering::Relaxed) >= ROUNDS, "the busy tasks went on");
    }

    #[test]
    fn busy_tasks_take_turns_and_one_that_is_woken_otherwise_keeps_its_place() {
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
                // Woken ten times over, the last task is polled once more for each, and gets no turn more.
                wakers[2].wake_by_ref();
                while order.lock().unwrap().len() < 7 {
                    next().await;
                }
                let polled = order.lock().unwrap().clone();
                for number in 0..2 {
                    let handshake_pacing = polled.iter().filter(|polled| **polled == number).count();
                    assert!((1..=3).contains(&handshake_pacing), "{round}: {polled:?}");
                }
                assert!(CYCLE.with_borrow(|cycle| cycle.queue.len()) <= 3, "no task is in the queue twice");
            }
        });
    }

    #[test]
    fn an_allowance_is_whole_again_in_the_next_cycle() {
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
        assert!((0..10).all(|_| allowance.take(4, Waker::noop())), "there is no worker here");
    }

    #[test]
    fn without_a_worker_a_task_goes_on_at_once() {
        runtime().block_on(next());
    }
}
