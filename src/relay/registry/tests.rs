//! Tests of `registry`.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::super::tests as relay_tests;
use super::*;
use crate::runtime::clock;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

const ID: RequestId = RequestId(7);

/// Registers a session with this id.
fn register(context: &SessionContext, id: u128) -> SessionGuard {
    let now = clock::now();
    let admission = relay_tests::admitted(Arc::new(relay_tests::limits()), now);
    context.register(relay_tests::session_facts(&admission, id, now), Arc::clone(admission.route()))
}

fn command() -> Command {
    Command::Send(Message::from(String::new()))
}

#[test]
fn a_command_reaches_its_session_and_wakes_it() {
    let (context, woken) = (SessionContext::default(), Arc::new(Woken::default()));
    let waker = Waker::from(Arc::clone(&woken));
    let mut session = register(&context, 7);
    let mut other = register(&context, 8);
    // Before the first poll no waker is registered.
    context.registry().deliver(ID, command()).unwrap();
    assert_eq!(session.take_commands(&waker).len(), 1);
    assert!(other.take_commands(Waker::noop()).is_empty() && session.take_commands(&waker).is_empty());
    context.registry().deliver(ID, command()).unwrap();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(other.take_commands(Waker::noop()).is_empty());
    assert_eq!(session.take_commands(&waker).len(), 1);
}

#[test]
fn pending_commands_are_limited_and_further_ones_are_returned() {
    let context = SessionContext::default();
    let mut session = register(&context, 7);
    for _ in 0..COMMANDS_MAX {
        context.registry().deliver(ID, command()).unwrap();
    }
    let back = context.registry().deliver(ID, command());
    assert!(matches!(back, Err(NotDelivered::Busy(Command::Send(_)))));
    assert_eq!(session.take_commands(Waker::noop()).len(), COMMANDS_MAX);
    assert!(context.registry().deliver(ID, command()).is_ok());
}

#[test]
fn a_dropped_session_is_removed_from_the_registry() {
    let (context, woken) = (SessionContext::default(), Arc::new(Woken::default()));
    for _ in 0..3 {
        let mut session = register(&context, 7);
        session.take_commands(&Waker::from(Arc::clone(&woken)));
        assert_eq!(context.registry().list().len(), 1);
    }
    assert!(context.registry().list().is_empty());
    assert_eq!(Arc::strong_count(&woken), 1);
    let back = context.registry().deliver(ID, command());
    assert!(matches!(back, Err(NotDelivered::NoSession(Command::Send(_)))));
}

/// A change of the expiry is not lost, and the last one of several remains.
#[test]
fn a_new_expiry_reaches_a_session_with_too_many_pending_commands() {
    let context = SessionContext::default();
    let mut session = register(&context, 7);
    for _ in 0..COMMANDS_MAX {
        context.registry().deliver(ID, command()).unwrap();
    }
    let expiry = |code| Some(Expiry { at: clock::now(), code: CloseCode(code) });
    for code in [4001, 4002, 4003] {
        context.registry().set_expiry(session.key(), expiry(code), RenewalCount::new().0);
    }
    let commands = session.take_commands(Waker::noop());
    assert_eq!(commands.len(), COMMANDS_MAX + 1);
    let code = |command: &Command| match command {
        Command::SetExpiry(expires, _) => expires.map(|expires| expires.code.0),
        _ => None,
    };
    assert_eq!(commands.iter().filter_map(code).collect::<Vec<_>>(), [4003]);
}
