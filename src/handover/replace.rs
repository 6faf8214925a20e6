//! Replaces this process: starts the new one, passes it the sockets and the state, moves the sessions, and leaves.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::channel::{self, Channel, ChannelError};
use super::ended::NewPeer;
use super::memfd::write_sealed;
use super::program::{NewProcess, Program};
use super::progress::Progress;
use super::records::PROCESS_MAX_BYTES;
use super::sender::{Counts, MoveError, SEND_MAX, Sender};
use super::service::set_main_process;
use super::session::WorkerSessions;
use super::state::{self, SocketsState};
use super::upgrader::{UpgradeError, UpgradeSummary};
use super::wire::{Message, SUPPORTED, State, newest_common};
use crate::runtime::clock;
use crate::server::control::Control;
use crate::server::passed::OutgoingDescriptors;
use crate::server::permit::{PermitError, UpgradePermit};

/// The time that the new program has to read its configuration, and then to bind.
const START_MAX: Duration = Duration::from_secs(30);
/// The time that connections have to become sessions, once no more are accepted.
const HANDSHAKES_MAX: Duration = Duration::from_secs(10);
/// The time that the sessions of the process before may take to arrive once an upgrade is requested.
const ARRIVALS_MAX: Duration = Duration::from_secs(2);
/// The pause between two looks at the connections that may become sessions.
const LOOK: Duration = Duration::from_millis(20);

impl From<PermitError> for UpgradeError {
    fn from(error: PermitError) -> Self {
        match error {
            PermitError::InProgress => Self::InProgress,
            PermitError::Stopping => Self::Stopping,
            PermitError::Busy | PermitError::System(_) => Self::System(error.to_string()),
        }
    }
}

fn system(error: impl fmt::Display) -> UpgradeError {
    UpgradeError::System(error.to_string())
}

/// Replaces this process by its program, or by the one at `binary`. Returns when all sessions have moved or drain.
///
/// # Errors
/// If the new process does not take over, or fails while it does. Then this process goes on, with the sessions that it
/// still has.
pub async fn replace(
    control: &Control,
    program: &Program,
    binary: Option<&Path>,
    progress: &Progress,
) -> Result<UpgradeSummary, UpgradeError> {
    let began = clock::now();
    wait_for_own_sessions(control).await?;
    let permit = control.upgrade().await?;
    let (own, other) = channel::pair().map_err(system)?;
    let channel = Channel::of_old(own).map_err(system)?;
    let new = program.start(binary, other).map_err(|error| UpgradeError::Start(error.path, error.reason))?;
    let mut upgrade = Upgrade { control, new, permit, channel };
    let (version, build) = upgrade.greet().await?;
    progress.start(upgrade.new.pid(), build.clone());
    upgrade.pass_state(version).await?;
    upgrade.permit.pause_accepting().await?;
    let counts = upgrade.take_over(version, progress).await?;
    let Upgrade { permit, new, .. } = upgrade;
    if permit.leave().await.is_err() {
        // This process was stopped meanwhile, which is meant for the service.
        let terminated = new.terminate();
        new.release();
        return terminated.map_err(system).and(Err(UpgradeError::Stopping));
    }
    let Counts { moved, drained, failed, longest_pause } = counts;
    let took = clock::now().saturating_duration_since(began);
    Ok(UpgradeSummary { pid: new.release(), version: build, moved, drained, failed, longest_pause, took })
}

/// Waits until no session of the process before this one can arrive any more. That process answers its caller when it has
/// sent the last one, so this one may be asked for the next upgrade before it has read that.
async fn wait_for_own_sessions(control: &Control) -> Result<(), UpgradeError> {
    let Some(before) = &control.facts().handed_over else { return Ok(()) };
    let until = clock::after(clock::now(), ARRIVALS_MAX);
    while !before.is_complete() {
        if is_past(until) {
            return Err(UpgradeError::InProgress);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// An upgrade in progress. If it is dropped, the new process is killed, and then this one accepts again.
struct Upgrade<'a> {
    control: &'a Control,
    new: NewProcess,
    permit: UpgradePermit,
    channel: Channel,
}

impl Upgrade<'_> {
    /// Waits until the new program has checked its configuration. Returns the version of the state, and that of the
    /// program.
    async fn greet(&mut self) -> Result<(u16, String), UpgradeError> {
        let hello = match self.answer("its greeting").await? {
            Message::Hello(hello) => hello,
            other => return Err(UpgradeError::NoAnswer(format!("it sent {} as its greeting", other.name()))),
        };
        let theirs = hello.min..=hello.max;
        let Some(version) = newest_common(&SUPPORTED, &theirs) else {
            return Err(UpgradeError::NoCommonVersion([*SUPPORTED.start(), *SUPPORTED.end()], [hello.min, hello.max]));
        };
        Ok((version, hello.build))
    }

    /// Passes the sockets and the state, and waits until the new process has bound them.
    async fn pass_state(&mut self, version: u16) -> Result<(), UpgradeError> {
        let OutgoingDescriptors { sockets, journal_lock, log_level } = self.permit.sockets().await?;
        let (descriptions, descriptors): (Vec<_>, Vec<OwnedFd>) = sockets.into_iter().unzip();
        let sockets = SocketsState {
            sockets: descriptions,
            has_journal_lock: journal_lock.is_some(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let records = state::export(self.control, &sockets, log_level).map_err(system)?;
        let (file, len) = write_sealed(&records, PROCESS_MAX_BYTES).map_err(system)?;
        drop(records);
        let passed = descriptors.iter().chain(&journal_lock).map(AsFd::as_fd);
        let passed: Vec<_> = std::iter::once(file.as_fd()).chain(passed).collect();
        let state = Message::State(State { version, len });
        self.channel.send(&state, &passed, SEND_MAX).await.map_err(system)?;
        match self.answer("that it is ready").await? {
            Message::Ready => Ok(()),
            other => Err(UpgradeError::NoAnswer(format!("it sent {} instead of being ready", other.name()))),
        }
    }

    async fn answer(&mut self, awaited: &str) -> Result<Message, UpgradeError> {
        let received = async {
            match self.channel.receive(START_MAX).await {
                Ok(received) => Ok(Ok(received.message)),
                Err(ChannelError::Failed(reason)) => Ok(Err(UpgradeError::Rejected(reason))),
                Err(error) => Err(error),
            }
        };
        self.new.answer(awaited, START_MAX, received).await.map_err(UpgradeError::NoAnswer)?
    }

    /// Lets the new process accept, and moves the sessions.
    async fn take_over(&mut self, version: u16, progress: &Progress) -> Result<Counts, UpgradeError> {
        let Self { control, channel, new, .. } = self;
        let pid = new.pid();
        if let Err(error) = channel.send(&Message::TakeOver, &[], SEND_MAX).await {
            // Its end also ends what it has accepted.
            let _ = new.end().await;
            return Err(failed(&error.into()));
        }
        let sender = Sender::new(channel, new, version);
        move_sessions(control, sender, pid, progress).await.map_err(|error| failed(&error))
    }
}

fn failed(error: &MoveError) -> UpgradeError {
    UpgradeError::Failed(error.to_string())
}

/// Moves the sessions of all workers, and those that connections in their handshake become. At the end the new process
/// becomes the main one of the service: systemd ends all others when the main one fails.
async fn move_sessions<N: NewPeer>(
    control: &Control,
    mut sender: Sender<'_, N>,
    pid: u32,
    progress: &Progress,
) -> Result<Counts, MoveError> {
    let gateway = control.gateway();
    let round = gateway.workers.begin_round();
    let until = clock::after(clock::now(), HANDSHAKES_MAX);
    let (mut stays, mut lost, mut moved) = (0_usize, 0_usize, 0);
    loop {
        // The sessions of these connections are found by the sweep after they have been counted.
        let is_last = gateway.process.metrics.pending_connections() == 0 || is_past(until);
        for worker in 0..gateway.workers.count() {
            let mut sessions = WorkerSessions { workers: &gateway.workers, worker, round, stays: 0, lost: 0 };
            sender.sweep(&mut sessions).await?;
            stays = stays.saturating_add(sessions.stays);
            lost = lost.saturating_add(sessions.lost);
            let now_moved = sender.counts().moved;
            progress.add_moved(now_moved.saturating_sub(std::mem::replace(&mut moved, now_moved)));
        }
        if is_last {
            set_main_process(pid);
            return sender.finish(stays, lost).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_past(until: Instant) -> bool {
    clock::now() >= until
}
