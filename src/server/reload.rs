//! Replaces the configuration of the running process, and ends the sessions that the new one does not admit.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api_sockets::ApiSockets;
use super::closings::{close_all, schedule};
use super::descriptors::fit_descriptors;
use super::error::ServeError;
use super::files::FilesInUse;
use super::found::adopt_discovered;
use super::listeners::Listeners;
use super::pool::WorkerPool;
use super::restart::{adopt_fixed, needs_restart};
use super::unix_socket::FileOwner;
use crate::config::{self, Checked, Config, Disk, ListenAddress, Report};
use crate::front::gateway::Gateway;
use crate::front::snapshot::{Snapshot, SnapshotContext};
use crate::relay::recheck::{EndCondition, RecheckMode, RecheckReport};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::telemetry::log;
use crate::telemetry::request::RequestId;

/// The options of a reload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReloadOptions {
    /// Whether only the consequences are reported.
    pub dry_run: bool,
    /// Whether more sessions than `recheck_max` may end.
    pub force: bool,
}

/// The consequences of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadSummary {
    /// The generation in use after the reload.
    pub generation: u64,
    /// Whether the configuration was installed.
    pub applied: bool,
    /// The number of sessions that continue as they are.
    pub kept: usize,
    /// The number of sessions that continue with other terms.
    pub changed: usize,
    /// The number of sessions that end, by cause.
    pub ended: Vec<(&'static str, usize)>,
    /// `recheck_max` in percent, if more sessions end than it allows: without force the reload is refused.
    pub exceeds_percent: Option<u8>,
    /// The addresses of the listeners that were added.
    pub listeners_added: Vec<String>,
    /// The addresses of the listeners that were removed.
    pub listeners_removed: Vec<String>,
    /// Warnings about the configuration, one line each.
    pub warnings: Vec<String>,
}

impl ReloadSummary {
    /// Returns the number of sessions that end.
    pub fn ended_total(&self) -> usize {
        self.ended.iter().map(|(_, count)| *count).fold(0, usize::saturating_add)
    }
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub enum ReloadError {
    /// The configuration is not valid.
    Invalid(Report),
    /// The process has no configuration file.
    NoFile,
    /// More sessions would end than `recheck_max` allows.
    TooMany {
        /// The consequences that the reload would have.
        summary: ReloadSummary,
        /// `recheck_max`, in percent.
        max_percent: u8,
    },
    /// An address cannot be bound, the descriptors are too few, or TLS cannot be set up.
    Server(ServeError),
    /// The process stops.
    Stopping,
    /// The process is being replaced.
    Upgrading,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(report) => write!(f, "the configuration is not valid\n{report}"),
            Self::NoFile => f.write_str("this process has no configuration file"),
            Self::TooMany { summary, max_percent } => {
                let ended = summary.ended_total();
                let all = ended.saturating_add(summary.kept).saturating_add(summary.changed);
                write!(f, "{ended} of {all} sessions would end, and recheck_max is {max_percent}%: --force permits it")
            }
            Self::Server(error) => error.fmt(f),
            Self::Stopping => f.write_str("the process is stopping"),
            Self::Upgrading => f.write_str("an upgrade is in progress"),
        }
    }
}

impl std::error::Error for ReloadError {}

/// The state of reloads: the configuration in use, and the sessions that the last one is ending.
#[derive(Debug)]
pub struct Reloader {
    pub(super) gateway: Arc<Gateway>,
    pub(super) pool: Arc<WorkerPool>,
    pub(super) listeners: Listeners,
    /// The configuration in use. Settings that need a restart have the values of the start.
    pub(super) config: Config,
    /// The file of the configuration.
    pub(super) file: Option<PathBuf>,
    /// The sockets of the admin API and of the metrics listener.
    pub(super) api: Arc<ApiSockets>,
    /// A clone of the locked file in `state_dir`.
    pub(super) journal_lock: Option<OwnedFd>,
    pub(super) tasks: Tasks,
    /// The files that the configuration names, as they are in use.
    pub(super) files: FilesInUse,
    /// The groups of files that were reported as unusable, and their content then.
    pub(super) reported: Vec<(Vec<PathBuf>, String)>,
    /// The files of the last refresh that was refused.
    pub(super) refused: Option<FilesInUse>,
    /// The sessions that the last reloads are ending, and when.
    ends: HashMap<RequestId, Instant>,
    /// Ends the task that closes the sessions that the last reload rejected.
    ending: CancellationToken,
}

impl Reloader {
    /// Returns the owners of the files of all Unix sockets.
    pub(super) fn files(&self) -> impl Iterator<Item = FileOwner> {
        self.listeners.files().chain(self.api.files())
    }

    /// Makes this process remove the files of its Unix sockets at its end.
    pub(super) fn take_files(&self) {
        self.files().for_each(|file| file.take());
    }

    /// Creates the state of a process that was started with this configuration.
    pub fn new(gateway: Arc<Gateway>, pool: Arc<WorkerPool>, config: Config) -> Self {
        Self {
            files: FilesInUse::read(&config.source),
            gateway,
            pool,
            listeners: Listeners::default(),
            config,
            file: None,
            api: Arc::default(),
            journal_lock: None,
            tasks: Tasks::default(),
            reported: Vec::new(),
            refused: None,
            ends: HashMap::new(),
            ending: CancellationToken::new(),
        }
    }

    /// Reads the file of the configuration, and installs it.
    ///
    /// # Errors
    /// If the configuration cannot be used, or too many sessions would end. Then nothing changes.
    pub async fn reload(&mut self, options: ReloadOptions) -> Result<ReloadSummary, ReloadError> {
        let Checked { config, report } = config::check(self.file.as_ref().ok_or(ReloadError::NoFile)?, &Disk);
        let source = config.ok_or(ReloadError::Invalid(report))?.source;
        // The files may change at any time. Those that are remembered are those that are installed.
        let files = FilesInUse::read(&source);
        let Checked { config, report } = config::recheck(&source, &files);
        let mut config = config.ok_or(ReloadError::Invalid(report))?;
        adopt_discovered(&mut config, &self.config, |source| self.gateway.discoveries.servers(source));
        let summary = self.install(config, options).await?;
        if summary.applied {
            self.files = files;
        }
        Ok(summary)
    }

    /// Installs a configuration: binds new listeners, builds the snapshot, checks the open sessions, and swaps.
    ///
    /// # Errors
    /// If the configuration cannot be used, or too many sessions would end. Then nothing changes.
    pub async fn install(&mut self, mut config: Config, options: ReloadOptions) -> Result<ReloadSummary, ReloadError> {
        let mut warnings: Vec<String> = config.warnings.lines().map(|(_, line)| line).collect();
        warnings.extend(needs_restart(&self.config, &config));
        adopt_fixed(&mut config, &self.config);
        let next = self.listeners.prepare(&config.listeners, Vec::new()).map_err(ReloadError::Server)?;
        let addresses = next.addresses();
        let snapshot = match self.build(&config, &addresses) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.gateway.retain_used();
                return Err(ReloadError::Server(error));
            }
        };
        let earlier = self.gateway.snapshot();
        let report = self.without_ending(self.recheck(&snapshot, RecheckMode::DryRun).await, &earlier);
        let before = self.listeners.addresses();
        let only_in = |these: &[_], others: &[_]| {
            these.iter().filter(|address| !others.contains(*address)).map(ToString::to_string).collect()
        };
        let mut summary = ReloadSummary {
            generation: earlier.generation(),
            applied: false,
            kept: report.kept,
            changed: report.changed,
            ended: report.by_cause(),
            exceeds_percent: None,
            listeners_added: only_in(&addresses, &before),
            listeners_removed: only_in(&before, &addresses),
            warnings,
        };
        summary.exceeds_percent = config.server.recheck_max_percent.filter(|max| is_over(&summary, *max));
        let refused = summary.exceeds_percent.filter(|_| !options.dry_run && !options.force);
        if options.dry_run || refused.is_some() {
            self.gateway.retain_used();
            return match refused {
                Some(max_percent) => Err(ReloadError::TooMany { summary, max_percent }),
                None => Ok(summary),
            };
        }
        summary.generation = snapshot.generation();
        summary.applied = true;
        self.revoke_listed(&config).await;
        let report = self.swap(snapshot, config, next).await;
        // Sessions that began or ended since the first check are counted by the second one.
        summary.kept = report.kept;
        summary.changed = report.changed;
        let new = self.without_ending(report.clone(), &earlier);
        summary.ended = new.by_cause();
        // Without a recheck, the closings of the reload before continue.
        if self.gateway.snapshot().rechecks_sessions() {
            self.end_sessions(&report);
        }
        Ok(summary)
    }

    /// Puts the revocations of `revocations_file` into effect, if they changed.
    pub(super) async fn revoke_listed(&mut self, config: &Config) {
        if self.config.revocations == config.revocations {
            return;
        }
        self.config.revocations = Arc::clone(&config.revocations);
        let count = config.revocations.len();
        match self.gateway.revoker.replace_listed(&config.revocations).await {
            Ok(ended) => tracing::info!(count, ended, "revocations of revocations_file are in effect"),
            Err(error) => tracing::error!(count, %error, "revocations_file is not in effect"),
        }
    }

    /// Leaves out the sessions that end already since an earlier reload: they do not count as ended by this one. `earlier`
    /// is the snapshot before this reload.
    fn without_ending(&self, mut report: RecheckReport, earlier: &Snapshot) -> RecheckReport {
        report.rejected.retain(|(id, _)| !self.ends.contains_key(id));
        report.expired.retain(|id| !self.ends.contains_key(id));
        report.removed.retain(|(id, ..)| !self.ends.contains_key(id));
        report.unserved.retain(|session| earlier.has_server(&session.upstream, &session.server));
        report
    }

    fn build(&self, config: &Config, addresses: &[ListenAddress]) -> Result<Arc<Snapshot>, ServeError> {
        let max_sessions = fit_descriptors(config)?;
        let Gateway { counters, key_sets, acme, .. } = &*self.gateway;
        let context = SnapshotContext { addresses, max_sessions, counters, key_sets, acme, now: clock::now() };
        self.gateway.snapshot().next(config, context).map(Arc::new).map_err(ServeError::Tls)
    }

    async fn recheck(&self, snapshot: &Arc<Snapshot>, mode: RecheckMode) -> RecheckReport {
        if snapshot.rechecks_sessions() {
            return self.gateway.workers.recheck(snapshot.policy(), mode).await;
        }
        RecheckReport { kept: self.gateway.process.lifecycle.sessions(), ..RecheckReport::default() }
    }

    /// Starts to fetch the key sets of the first snapshot, and to look up its servers.
    pub(super) fn start_fetching(&self) {
        self.gateway.retain_used();
        self.gateway.key_sets.start(&self.tasks);
        self.look_up_servers();
    }

    async fn swap(
        &mut self,
        snapshot: Arc<Snapshot>,
        config: Config,
        next: super::listeners::NextListeners,
    ) -> RecheckReport {
        self.gateway.install(Arc::clone(&snapshot));
        self.gateway.key_sets.start(&self.tasks);
        self.gateway.process.lifecycle.set_drain_timeout(config.server.drain_timeout);
        self.gateway.process.lifecycle.set_shutdown_delay(config.server.shutdown_delay);
        // A level that an operator set stays unless the configuration changes. The log is not set up in tests.
        if let Some(log) = log::handle().filter(|_| config.log.level != self.config.log.level) {
            log.set_level(config.log.level);
        }
        self.config = config;
        self.look_up_servers();
        self.listeners.change(next, &self.pool).await;
        if snapshot.rechecks_sessions() {
            // The sessions that the reload before is still closing are checked as well.
            self.ending.cancel();
        }
        self.recheck(&snapshot, RecheckMode::Apply).await
    }

    /// Closes the sessions that are not admitted at `recheck_rate`, and those that lost their route as the route
    /// demands. Those of removed servers are closed by `draining`.
    ///
    /// A session that an earlier reload is ending keeps its time.
    fn end_sessions(&mut self, report: &RecheckReport) {
        if report.rejected.is_empty() && report.removed.is_empty() {
            self.ends.clear();
            return;
        }
        for (id, rejection) in &report.rejected {
            tracing::debug!(request_id = %id, rule = rejection.label(), "session is not admitted any more");
        }
        let (server, now) = (&self.config.server, Instant::from_std(clock::now()));
        let closings = schedule(report, &self.ends, now, server.recheck_rate, server.drain_timeout);
        self.ends = closings.iter().map(|(at, id, _)| (*id, *at)).collect();
        self.ending = CancellationToken::new();
        let (workers, ending) = (Arc::clone(&self.gateway.workers), self.ending.clone());
        let not_admitted = EndCondition::NotAdmitted(Arc::clone(self.gateway.snapshot().policy()));
        self.tasks.start(async move {
            tokio::select! {
                () = ending.cancelled() => {}
                () = close_all(&workers, closings, &not_admitted) => {}
            }
        });
    }
}

/// Whether more than this share of the sessions would end, without those that do not count.
fn is_over(summary: &ReloadSummary, max_percent: u8) -> bool {
    let ended = summary.ended_total();
    let all = ended.saturating_add(summary.kept).saturating_add(summary.changed);
    ended.saturating_mul(100) > all.saturating_mul(usize::from(max_percent))
}

#[cfg(test)]
mod tests;
