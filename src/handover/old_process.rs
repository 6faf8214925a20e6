//! The process that this one replaces, over the channel to it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::channel::{Channel, Received};
use super::draining;
use super::ended::OldProcess;
use super::memfd::read_sealed;
use super::predecessor::Predecessor;
use super::receiver::{self, Receiver};
use super::records::PROCESS_MAX_BYTES;
use super::session::Adopter;
use super::state::{self, ProcessState, SocketsState};
use super::wire::{Hello, Message, SUPPORTED, State};
use crate::runtime::clock;
use crate::server::control::Control;
use crate::server::passed::{PassedSockets, PassedState};
use crate::telemetry::handovers::{HandoverTotals, log_taken_over};

/// The time in which the other process takes a message.
const SEND_MAX: Duration = Duration::from_secs(10);
/// The time that the other process has to send its state, or to stop accepting.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The process that this one replaces.
#[derive(Debug)]
struct Connected {
    runtime: Runtime,
    channel: Channel,
    old: OldProcess,
    /// The version of the state, once it was received.
    version: u16,
}

/// Returns the process at the other end of a socket.
///
/// # Errors
/// If it is not the parent of this process, or the system does not provide an event queue.
pub fn connect(socket: OwnedFd) -> Result<Box<dyn Predecessor>, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let entered = runtime.enter();
    let old = OldProcess::parent().map_err(|error| format!("the process before has ended: {error}"))?;
    let channel = Channel::of_new(socket, old.id()).map_err(|error| error.to_string())?;
    drop(entered);
    Ok(Box::new(Connected { runtime, channel, old, version: 0 }))
}

impl Connected {
    fn send(&self, message: &Message) -> Result<(), String> {
        self.runtime.block_on(self.channel.send(message, &[], SEND_MAX)).map_err(|error| error.to_string())
    }

    fn receive(&self) -> Result<Received, String> {
        self.runtime.block_on(self.channel.receive(ANSWER_MAX)).map_err(|error| error.to_string())
    }
}

impl Predecessor for Connected {
    fn fail(&mut self, reason: &str) {
        // Without a reader there is nobody to report to.
        let _ = self.send(&Message::failed(reason));
    }

    fn receive_state(&mut self) -> Result<PassedState, String> {
        let build = env!("CARGO_PKG_VERSION").to_owned();
        self.send(&Message::Hello(Hello { min: *SUPPORTED.start(), max: *SUPPORTED.end(), build }))?;
        let received = self.receive()?;
        let Received { message: Message::State(State { version, len }), descriptors, descriptors_lost } = received
        else {
            return Err(received.unexpected().to_string());
        };
        if descriptors_lost {
            return Err("the descriptors of the listening sockets exceed the limit of this process".to_owned());
        }
        if !SUPPORTED.contains(&version) {
            return Err(format!("version {version} of the state is not known"));
        }
        self.version = version;
        let mut descriptors = descriptors.into_iter();
        let file = descriptors.next().ok_or("the state has no descriptor")?;
        let bytes = read_sealed(file, len, PROCESS_MAX_BYTES).map_err(|error| error.to_string())?;
        let ProcessState { sockets, moved } = state::read(&bytes).map_err(|error| error.to_string())?;
        let SocketsState { sockets: descriptions, has_journal_lock, build } = sockets;
        if descriptors.len() != descriptions.len().saturating_add(usize::from(has_journal_lock)) {
            return Err("the state does not fit its descriptors".to_owned());
        }
        let sockets = descriptions.into_iter().zip(&mut descriptors).collect();
        let sockets = PassedSockets::new(sockets).map_err(|error| error.to_string())?;
        let pid = self.old.id().as_raw_nonzero().get().unsigned_abs();
        Ok(PassedState { sockets, journal_lock: descriptors.next(), moved, origin: (pid, build) })
    }

    fn wait_for_take_over(&mut self, control: &Control) -> Result<(), String> {
        control.begin_handover();
        self.send(&Message::Ready)?;
        let mut received = self.receive()?;
        if matches!(received.message, Message::Metrics(_)) {
            receiver::metrics(received, &mut Adopter::new(control));
            received = self.receive()?;
        }
        match received.message {
            Message::TakeOver => Ok(()),
            _ => Err(received.unexpected().to_string()),
        }
    }

    fn take_sessions(&mut self, control: &Control) -> Result<(), String> {
        let Self { runtime, channel, old, version } = self;
        let mut sessions = Adopter::new(control);
        let adopted = runtime.block_on(Receiver::new(channel, old, *version).run(&mut sessions));
        let handed_over = control.facts().handed_over.as_ref();
        // Also if the other process has ended before all its sessions had moved: no further one follows.
        control.complete_handover();
        if let (Some(before), Some(end)) = (handed_over, &adopted.end) {
            let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
            let totals = HandoverTotals {
                moved: number(end.moved),
                drained: number(end.drained),
                failed: number(end.failed),
                longest_pause: adopted.longest_pause,
                took: clock::now().saturating_duration_since(control.facts().started),
            };
            control.gateway().process.metrics.count_handover(&totals);
            log_taken_over(before.pid, &before.version, &totals);
        }
        if let Some(reason) = &adopted.last_refusal {
            tracing::warn!(refused = adopted.refused, reason, "sessions of the process before drain there");
        }
        match adopted.error {
            Some(error) => Err(error.to_string()),
            None => Ok(()),
        }
    }

    fn forward_revocations(&mut self, control: &Control) {
        self.runtime.block_on(draining::forward(&self.channel, control.gateway(), self.version));
    }
}
