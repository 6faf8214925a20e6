use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A request that waits.
struct Request {
    ticket: Ticket,
    woken: Arc<Woken>,
}

impl Request {
    /// Joins the queue, and is polled once.
    fn join(queue: &Arc<Queue>, max: u32) -> Option<Self> {
        let request = Self { ticket: queue.join(max)?, woken: Arc::default() };
        request.poll();
        Some(request)
    }

    fn poll(&self) -> bool {
        self.ticket.is_first(&Waker::from(Arc::clone(&self.woken)))
    }

    /// Returns whether it was woken since the last call.
    fn was_woken(&self) -> bool {
        self.woken.0.swap(0, Ordering::Relaxed) > 0
    }
}

#[test]
fn the_first_request_is_woken_and_the_others_are_not() {
    let queue = Arc::<Queue>::default();
    assert!(queue.is_empty());
    queue.wake_first();
    let [first, second, third] = [(); 3].map(|()| Request::join(&queue, 3).unwrap());
    assert!(Request::join(&queue, 3).is_none(), "the queue is full");
    assert_eq!((queue.waiting(), queue.is_empty()), (3, false));
    assert_eq!([&first, &second, &third].map(Request::poll), [true, false, false]);
    queue.wake_first();
    assert_eq!([&first, &second, &third].map(Request::was_woken), [true, false, false]);
    // A request in the middle that leaves wakes none.
    drop(second);
    assert_eq!([&first, &third].map(Request::was_woken), [false, false]);
    // The first one leaves, whether it got a server or its client disconnected.
    drop(first);
    assert!(third.was_woken() && third.poll());
    drop(third);
    assert!(queue.is_empty());
}

#[test]
fn a_request_that_steps_out_keeps_its_position_and_does_not_count() {
    let queue = Arc::<Queue>::default();
    let [first, second] = [(); 2].map(|()| Request::join(&queue, 2).unwrap());
    first.ticket.step_out();
    assert!(second.was_woken() && second.poll() && !first.poll());
    assert_eq!(queue.waiting(), 1);
    let third = Request::join(&queue, 2).expect("one request waits");
    assert!(Request::join(&queue, 2).is_none());
    first.ticket.step_in();
    first.ticket.step_in();
    assert!(first.poll() && !second.poll());
    assert_eq!(queue.waiting(), 3, "a request may always step in again");
    second.ticket.step_out();
    assert!(!first.was_woken(), "it was the first one already");
    drop((first, second, third));
    assert_eq!((queue.waiting(), queue.join(1).is_some()), (0, true));
}

#[test]
fn a_request_may_step_in_behind_the_others() {
    let queue = Arc::<Queue>::default();
    let [mut first, mut second] = [(); 2].map(|()| Request::join(&queue, 2).unwrap());
    first.ticket.step_out();
    assert!(second.was_woken());
    first.ticket.step_in_last();
    assert!(second.poll() && !first.poll());
    second.ticket.step_in_last();
    assert!(first.was_woken() && first.poll() && !second.poll());
    assert_eq!(queue.waiting(), 2);
    drop((first, second));
    assert!(queue.is_empty());
}

/// A change at a random request.
#[derive(Debug, Clone)]
enum Step {
    Join,
    Leave(usize),
    Out(usize),
    Back(usize),
    Last(usize),
    Poll(usize),
    /// A server becomes available.
    Free,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        2 => any::<usize>().prop_map(Step::Out),
        2 => any::<usize>().prop_map(Step::Back),
        1 => any::<usize>().prop_map(Step::Last),
        3 => any::<usize>().prop_map(Step::Poll),
        2 => Just(Step::Free),
    ]
}

/// The requests of a model in the order of their positions, each with whether it waits.
type Model = Vec<(Request, bool)>;

/// Returns the oldest request that waits.
fn oldest(model: &Model) -> Option<usize> {
    model.iter().position(|(_, waits)| *waits)
}

/// Does a step. Returns the number of the request that learned from it that it is the first one.
fn apply(step: &Step, queue: &Arc<Queue>, model: &mut Model) -> Option<u64> {
    const MAX: u32 = 8;
    let at = |index: &usize| index.checked_rem(model.len());
    let polled = match step {
        Step::Join => {
            let request = Request::join(queue, MAX);
            assert_eq!(request.is_none(), model.iter().filter(|(_, waits)| *waits).count() >= MAX as usize);
            model.extend(request.map(|request| (request, true)));
            model.len().checked_sub(1)
        }
        Step::Leave(index) => {
            at(index).map(|index| model.remove(index));
            None
        }
        Step::Out(index) => {
            if let Some((request, waits)) = at(index).and_then(|index| model.get_mut(index)) {
                request.ticket.step_out();
                *waits = false;
            }
            None
        }
        Step::Back(index) => {
            let index = at(index);
            if let Some((request, waits)) = index.and_then(|index| model.get_mut(index)) {
                request.ticket.step_in();
                *waits = true;
            }
            index
        }
        Step::Last(index) => at(index).map(|index| {
            let (mut request, _) = model.remove(index);
            request.ticket.step_in_last();
            model.push((request, true));
            model.len() - 1
        }),
        Step::Poll(index) => at(index),
        Step::Free => {
            for (request, _) in model.iter() {
                request.was_woken();
            }
            queue.wake_first();
            let first = oldest(model);
            let woken = |(index, (request, _)): (usize, &(Request, bool))| (request.was_woken(), first == Some(index));
            assert!(model.iter().enumerate().map(woken).all(|(woken, is_first)| woken == is_first));
            return first.map(|first| model[first].0.ticket.number);
        }
    };
    let (first, polled) = (oldest(model), polled.filter(|index| model[*index].1)?);
    assert_eq!(model[polled].0.poll(), first == Some(polled));
    (first == Some(polled)).then(|| model[polled].0.ticket.number)
}

proptest! {
    /// After any steps, the oldest of the requests that wait is the first one, and has learned it: it was polled since, or
    /// is woken. A server that becomes available wakes it and no other
    /// one.
    #[test]
    fn the_oldest_request_is_first_and_misses_nothing(steps in proptest::collection::vec(step(), 1..200)) {
        let queue = Arc::<Queue>::default();
        let (mut model, mut aware) = (Model::new(), None);
        for step in steps {
            aware = apply(&step, &queue, &mut model).or(aware);
            prop_assert_eq!(queue.waiting(), model.iter().filter(|(_, waits)| *waits).count());
            let first = oldest(&model).map(|first| &model[first].0);
            let number = first.map(|first| first.ticket.number);
            prop_assert!(aware == number || first.is_none_or(Request::was_woken), "{step:?}");
            aware = number;
        }
    }
}

/// Permits are released and taken by several threads, and each is taken: no wake-up is lost between the look for a permit
/// and the wait.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const PERMITS: usize = 2_000;
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let (queue, free) = (Arc::<Queue>::default(), Arc::<AtomicUsize>::default());
    let waiter = || {
        let (queue, free) = (Arc::clone(&queue), Arc::clone(&free));
        std::thread::spawn(move || {
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            for _ in 0..PERMITS {
                let ticket = queue.join(u32::MAX).unwrap();
                let take = || free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1));
                while !(ticket.is_first(&waker) && take().is_ok()) {
                    std::thread::park();
                }
            }
        })
    };
    let waiters = [waiter(), waiter()];
    for _ in 0..2 * PERMITS {
        free.fetch_add(1, Ordering::SeqCst);
        queue.wake_first();
        std::hint::spin_loop();
    }
    for waiter in waiters {
        waiter.join().unwrap();
    }
    assert_eq!((free.load(Ordering::Relaxed), queue.waiting()), (0, 0));
}
