//! Replaces this process: starts the new one, passes it the sockets and the state, moves the sessions, and leaves.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::{self, Channel, ChannelError};
use super::draining;
use super::ended::NewPeer;
use super::memfd::write_sealed;
use super::program::{NewProcess, Program};
use super::progress::Progress;
use super::records::PROCESS_MAX_BYTES;
use super::sender::{Counts, MoveError, SEND_MAX, Sender, Stop};
use super::service::set_main_process;
use super::session::WorkerSessions;
use super::state::{self, SocketsState};
use super::upgrader::{UpgradeError, UpgradeSummary};
use super::wire::{Message, SUPPORTED, State, newest_common};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::server::control::Control;
use crate::server::passed::OutgoingDescriptors;
use crate::server::permit::{PermitError, UpgradePermit};

/// The time that the new program has to read its configuration, and then to bind.
const START_MAX: Duration = Duration::from_secs(30);
/// Limit on the time that connections have to become sessions, once no more are accepted: their `handshake_timeout` may
/// be longer. It is below the time that the new process waits for a batch.
const HANDSHAKES_MAX: Duration = Duration::from_secs(60);
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
/// If the new process does not take over, or ends while it does. Then this process goes on, with the sessions that it
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
    let mut upgrade = Upgrade { control, new, permit, channel, handshake_timeout: HANDSHAKES_MAX };
    let pid = upgrade.new.pid();
    progress.start(pid);
    tracing::info!(to_pid = pid, program = %binary.unwrap_or(program.path()).display(), "upgrade starts");
    let (version, build) = upgrade.greet().await?;
    progress.set_version(build.clone());
    upgrade.pass_state(version).await?;
    upgrade.permit.pause_accepting().await?;
    let counts = upgrade.take_over(version, progress).await?;
    let Upgrade { permit, new, channel, .. } = upgrade;
    if permit.leave().await.is_err() {
        // This process was stopped meanwhile, which is meant for the service.
        let terminated = new.terminate();
        new.release();
        return terminated.map_err(system).and(Err(UpgradeError::Stopping));
    }
    // The task ends with the process, or with the new one.
    Tasks::default().start(draining::apply(channel, Arc::clone(control.gateway())));
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
    handshake_timeout: Duration,
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
        let OutgoingDescriptors { sockets, journal_lock, log_level, handshake_timeout } = self.permit.sockets().await?;
        self.handshake_timeout = handshake_timeout.min(HANDSHAKES_MAX);
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
        tokio::select! {
            answered = self.new.answer(awaited, START_MAX, received) => answered.map_err(UpgradeError::NoAnswer)?,
            () = self.permit.stopped() => Err(UpgradeError::Stopping),
        }
    }

    /// Lets the new process accept, and moves the sessions.
    async fn take_over(&mut self, version: u16, progress: &Progress) -> Result<Counts, UpgradeError> {
        let Self { control, channel, new, handshake_timeout, .. } = self;
        // Nobody reads the counters here any more. The new process must not show lower ones.
        send_metrics(control, channel, version).await;
        if let Err(error) = channel.send(&Message::TakeOver, &[], SEND_MAX).await {
            // Its end also ends what it has accepted.
            let _ = new.end().await;
            return Err(failed(&error.into(), 0));
        }
        let pid = new.pid();
        let mut moves = Moves { control, progress, handshake_timeout: *handshake_timeout, stays: 0, lost: 0 };
        let mut sender = Sender::new(channel, new, version);
        match moves.run(&mut sender).await {
            Ok(()) => {}
            Err(Stop::NewEnded(error)) => {
                return Err(failed(&error, sender.counts().failed.saturating_add(moves.lost)));
            }
            Err(Stop::SessionsLeft(error)) => {
                tracing::error!(%error, "the move of sessions has stopped: those that are left drain in this process");
                // Those that were resumed are counted already.
                moves.stays = moves.count_left().await.saturating_sub(sender.counts().drained);
            }
        }
        // systemd ends all other processes of the service when the main one fails.
        set_main_process(pid);
        send_metrics(control, channel, version).await;
        let count = sender.counts().moved.saturating_add(moves.lost);
        sender.finish(moves.stays, moves.lost).await.map_err(|error| failed(&error, count))
    }
}

/// Sends the counters of this process. Without them the counters of the new one are lower, which is no reason to stop.
async fn send_metrics(control: &Control, channel: &Channel, version: u16) {
    let sent = async {
        let records = state::export_metrics(control).map_err(|error| error.to_string())?;
        let (file, len) = write_sealed(&records, PROCESS_MAX_BYTES).map_err(|error| error.to_string())?;
        let message = Message::Metrics(State { version, len });
        channel.send(&message, &[file.as_fd()], SEND_MAX).await.map_err(|error| error.to_string())
    };
    if let Err(error) = sent.await {
        tracing::warn!(error, "the new process does not have the latest counters");
    }
}

fn failed(error: &MoveError, lost: usize) -> UpgradeError {
    UpgradeError::Failed { reason: error.to_string(), lost }
}

/// The moves of all sessions.
struct Moves<'a> {
    control: &'a Control,
    progress: &'a Progress,
    handshake_timeout: Duration,
    /// The number of sessions that cannot move.
    stays: usize,
    /// The number of sessions that have ended because they could not be frozen.
    lost: usize,
}

impl Moves<'_> {
    /// Moves the sessions of all workers, and those that connections in their handshake become.
    async fn run<N: NewPeer>(&mut self, sender: &mut Sender<'_, N>) -> Result<(), Stop> {
        let gateway = self.control.gateway();
        let round = gateway.workers.begin_round();
        let until = clock::after(clock::now(), self.handshake_timeout);
        loop {
            // The sessions of these connections are found by the sweep after they have been counted.
            let is_last = gateway.process.metrics.pending_connections() == 0 || is_past(until);
            for worker in 0..gateway.workers.count() {
                let before = sender.counts().moved;
                let mut sessions = WorkerSessions { workers: &gateway.workers, worker, round, stays: 0, lost: 0 };
                let swept = sender.sweep(&mut sessions).await;
                self.stays = self.stays.saturating_add(sessions.stays);
                self.lost = self.lost.saturating_add(sessions.lost);
                self.progress.add_moved(sender.counts().moved.saturating_sub(before));
                swept?;
            }
            if is_last {
                return Ok(());
            }
            sender.note_serving();
            sender.check().await?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns the number of sessions that are in this process.
    async fn count_left(&self) -> usize {
        self.control.gateway().workers.list().await.len()
    }
}

fn is_past(until: Instant) -> bool {
    clock::now() >= until
}
