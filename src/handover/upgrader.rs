//! The handle by which the admin API and the signals replace the running process.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::progress::{Progress, Successor};
use crate::runtime::tasks::Tasks;
use crate::telemetry::handovers::{HandoverTotals, log_failure, log_passed_on};
use crate::telemetry::metrics::Metrics;

/// The result of an upgrade, when all sessions have moved or drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeSummary {
    /// The id of the new process.
    pub pid: u32,
    /// The version of the new process.
    pub version: String,
    /// The number of sessions that the new process continues.
    pub moved: usize,
    /// The number of sessions that stay in this process and drain.
    pub drained: usize,
    /// The number of sessions that were lost.
    pub failed: usize,
    /// The longest time for which a session was not served.
    pub longest_pause: Duration,
    /// The time from the start of the new process to the end of the last move.
    pub took: Duration,
}

/// Why an upgrade changed nothing, or was not completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeError {
    /// Another upgrade is in progress.
    InProgress,
    /// The process is stopping.
    Stopping,
    /// The new program could not be started.
    Start(PathBuf, String),
    /// The new process ended, or did not answer in time, before it could take over.
    NoAnswer(String),
    /// The new process rejected the configuration or the state, for this reason.
    Rejected(String),
    /// The programs have no version of the state format in common: ours, and those of the new one.
    NoCommonVersion([u16; 2], [u16; 2]),
    /// The new process failed after it had taken over. This process continues with the sessions that it still has.
    Failed {
        /// The reason.
        reason: String,
        /// The number of sessions that were lost with the new process.
        lost: usize,
    },
    /// The system did not provide a socket, a thread or a descriptor.
    System(String),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProgress => f.write_str("another upgrade is in progress"),
            Self::Stopping => f.write_str("the process is stopping"),
            Self::Start(path, error) => write!(f, "cannot start {}: {error}", path.display()),
            Self::NoAnswer(reason) => write!(f, "the new process did not take over: {reason}"),
            Self::Rejected(reason) => write!(f, "the new process cannot take over: {reason}"),
            Self::NoCommonVersion([own_min, own_max], [min, max]) => write!(
                f,
                "no common version of the state format: this process writes {own_min} to {own_max}, the new one reads \
                 {min} to {max}"
            ),
            Self::Failed { reason, lost } => {
                write!(f, "the new process failed after it had taken over: {reason}; {lost} sessions were lost")
            }
            Self::System(error) => write!(f, "the system does not permit an upgrade: {error}"),
        }
    }
}

impl std::error::Error for UpgradeError {}

impl UpgradeSummary {
    /// Returns the totals for the log and the metrics.
    pub fn totals(&self) -> HandoverTotals {
        let Self { moved, drained, failed, longest_pause, took, .. } = *self;
        HandoverTotals { moved, drained, failed, longest_pause, took }
    }
}

impl UpgradeError {
    /// Whether the upgrade was not even tried, since the process does something else.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::InProgress | Self::Stopping)
    }

    /// Returns the number of sessions that were lost.
    pub fn lost(&self) -> usize {
        match self {
            Self::Failed { lost, .. } => *lost,
            _ => 0,
        }
    }
}

/// An upgrade that runs.
pub type Upgrading = Pin<Box<dyn Future<Output = Result<UpgradeSummary, UpgradeError>> + Send>>;

/// Starts an upgrade to a program; `None` is the path of the running one.
type Start = dyn Fn(Option<PathBuf>, Progress) -> Upgrading + Send + Sync;

/// The handle by which the admin API and the signals replace the running process. Clones share its state.
#[derive(Clone)]
pub struct Upgrader {
    start: Arc<Start>,
    progress: Progress,
    metrics: Arc<Metrics>,
    /// One permit: upgrades do not overlap.
    permit: Arc<Semaphore>,
    tasks: Tasks,
}

impl Upgrader {
    /// Creates the handle. `start` makes an upgrade: it reports its progress, and returns when all sessions have moved or
    /// drain. It is not called while an earlier upgrade runs.
    pub fn new(
        metrics: Arc<Metrics>,
        start: impl Fn(Option<PathBuf>, Progress) -> Upgrading + Send + Sync + 'static,
    ) -> Self {
        Self {
            start: Arc::new(start),
            progress: Progress::default(),
            metrics,
            permit: Arc::new(Semaphore::new(1)),
            tasks: Tasks::default(),
        }
    }

    /// Replaces the process by a program; `None` is the path of the running one. The outcome is logged, and a failure
    /// counted; the new process counts a success. The upgrade continues if the returned future is dropped.
    ///
    /// # Errors
    /// If the new process could not take over, or another upgrade is in progress.
    pub async fn upgrade(&self, binary: Option<PathBuf>) -> Result<UpgradeSummary, UpgradeError> {
        let permit = Arc::clone(&self.permit).try_acquire_owned().map_err(|_| UpgradeError::InProgress)?;
        let (reply, replied) = oneshot::channel();
        let (upgrading, running) = ((self.start)(binary, self.progress.clone()), Running(self.progress.clone()));
        let metrics = Arc::clone(&self.metrics);
        self.tasks.start(async move {
            let result = upgrading.await;
            drop(running);
            report(&result, &metrics);
            drop(permit);
            // The caller may have disconnected.
            let _ = reply.send(result);
        });
        // The task ends without a reply only by a panic.
        replied.await.unwrap_or_else(|_| Err(UpgradeError::System("the upgrade was interrupted".to_owned())))
    }

    /// Blocks until no upgrade is in progress, for at most `max`. A process that stops while it is replaced must not end
    /// before the sessions that are on their way have arrived, and before the new process was stopped, too.
    pub fn wait_until_idle(&self, max: Duration) {
        // Without a runtime there is no upgrade either.
        let Ok(runtime) = Builder::new_current_thread().enable_time().build() else { return };
        if runtime.block_on(async { timeout(max, self.permit.acquire()).await.is_err() }) {
            tracing::warn!("this process ends while it is replaced");
        }
    }

    /// Returns the new process while an upgrade is in progress.
    pub fn successor(&self) -> Option<Successor> {
        self.progress.successor()
    }
}

impl fmt::Debug for Upgrader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrader").field("progress", &self.progress).finish_non_exhaustive()
    }
}

/// Ends the progress of an upgrade, also after a panic.
struct Running(Progress);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn report(result: &Result<UpgradeSummary, UpgradeError>, metrics: &Metrics) {
    match result {
        Ok(summary) => log_passed_on(summary.pid, &summary.version, &summary.totals()),
        Err(error) if error.is_refusal() => {}
        Err(error) => {
            log_failure(error);
            metrics.count_failed_handover(error.lost());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> UpgradeSummary {
        UpgradeSummary {
            pid: 8,
            version: "0.2.0".to_owned(),
            moved: 3,
            drained: 1,
            failed: 0,
            longest_pause: Duration::from_millis(12),
            took: Duration::from_millis(900),
        }
    }

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new(Duration::ZERO))
    }

    /// Returns a handle whose upgrades wait until they get their result.
    fn waiting() -> (Upgrader, tokio::sync::mpsc::Sender<Result<UpgradeSummary, UpgradeError>>) {
        let (results, receiver) = tokio::sync::mpsc::channel(1);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let upgrader = Upgrader::new(metrics(), move |_, progress| {
            let receiver = Arc::clone(&receiver);
            progress.start(8);
            progress.set_version("0.2.0".to_owned());
            progress.add_moved(2);
            Box::pin(async move { receiver.lock().await.recv().await.unwrap() })
        });
        (upgrader, results)
    }

    #[tokio::test]
    async fn one_upgrade_runs_at_a_time_and_a_further_one_works_at_once() {
        let (upgrader, results) = waiting();
        let mut first = Box::pin(upgrader.upgrade(None));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert_eq!(upgrader.upgrade(None).await, Err(UpgradeError::InProgress));
        results.send(Ok(summary())).await.unwrap();
        assert_eq!(first.await, Ok(summary()));
        results.send(Err(UpgradeError::Stopping)).await.unwrap();
        assert_eq!(upgrader.upgrade(None).await, Err(UpgradeError::Stopping));
    }

    #[tokio::test]
    async fn the_new_process_is_shown_while_the_upgrade_runs() {
        let (upgrader, results) = waiting();
        assert_eq!(upgrader.successor(), None);
        let mut upgrade = Box::pin(upgrader.upgrade(None));
        assert!(futures_util::poll!(&mut upgrade).is_pending());
        assert_eq!(upgrader.successor(), Some(Successor { pid: 8, version: Some("0.2.0".to_owned()), moved: 2 }));
        results.send(Ok(summary())).await.unwrap();
        upgrade.await.unwrap();
        assert_eq!(upgrader.successor(), None);
    }

    #[tokio::test]
    async fn an_upgrade_continues_without_its_caller() {
        let (upgrader, results) = waiting();
        let mut upgrade = Box::pin(upgrader.upgrade(None));
        assert!(futures_util::poll!(&mut upgrade).is_pending());
        drop(upgrade);
        assert_eq!(upgrader.upgrade(None).await, Err(UpgradeError::InProgress));
        results.send(Ok(summary())).await.unwrap();
        // The permit is free again once the task has ended.
        let _free = upgrader.permit.acquire().await.unwrap();
        assert_eq!(upgrader.successor(), None);
    }

    #[tokio::test]
    async fn only_failures_of_upgrades_that_were_tried_count() {
        let metrics = metrics();
        for (error, failures) in [
            (UpgradeError::InProgress, 0),
            (UpgradeError::Stopping, 0),
            (UpgradeError::Rejected("no".to_owned()), 1),
            (UpgradeError::Failed { reason: "it ended".to_owned(), lost: 7 }, 2),
        ] {
            let result = Err(error.clone());
            let upgrader = Upgrader::new(Arc::clone(&metrics), move |_, _| {
                let result = result.clone();
                Box::pin(async move { result })
            });
            assert_eq!(upgrader.upgrade(None).await, Err(error));
            assert_eq!(metrics.handovers().outcomes, [0, failures]);
            assert_eq!(metrics.handovers().sessions, [0, 0, if failures == 2 { 7 } else { 0 }]);
        }
    }
}
