//! Installs the servers that were found by look-ups or listed in files. Their changes are not changes of the
//! configuration, so `recheck_max` does not apply to them.

use std::path::PathBuf;
use std::sync::Arc;

use super::files::Unusable;
use super::reload::{ReloadError, ReloadOptions, Reloader};
use crate::balance::{Discover, ServerConfig, UpstreamConfig};
use crate::config::{Config, Report};
use crate::upstream::discovery::Used;

impl Reloader {
    /// Looks up the servers of the configuration in use from now on.
    pub(super) fn look_up_servers(&self) {
        let resolver = self.gateway.connector.servers().resolver();
        resolver.use_servers(&self.config.server.resolver);
        let mut used = Used::new();
        for upstream in &self.config.upstreams {
            let Some(discover) = &upstream.discover else { continue };
            used.entry(discover.clone())
                .and_modify(|names| *names = format!("{names}, {}", upstream.name))
                .or_insert_with(|| upstream.name.to_string());
        }
        self.gateway.discoveries.set_used(used, resolver, &self.tasks);
    }

    /// Installs the servers that look-ups have found since the last call. Those that cannot be installed are tried again
    /// after the next look-up.
    pub(super) async fn install_found(&mut self) {
        let found = self.gateway.discoveries.take_changed();
        let servers_of = |upstream: &UpstreamConfig| {
            found
                .iter()
                .find(|(source, _)| Some(source) == upstream.discover.as_ref())
                .map(|(_, servers)| servers.clone())
        };
        if let Err(error) = self.install_servers(servers_of).await {
            tracing::error!(%error, "servers that were found are not used");
            self.gateway.discoveries.put_back(found.into_iter().map(|(source, _)| source));
        }
    }

    /// Installs the servers that files list, of the upstreams that have the same file in this configuration.
    pub(super) async fn install_listed(&mut self, config: &Config) -> Result<(), ReloadError> {
        let is_listed = |upstream: &UpstreamConfig| matches!(upstream.discover, Some(Discover::InFile(_)));
        let servers_of = |upstream: &UpstreamConfig| {
            let same = |other: &&UpstreamConfig| other.name == upstream.name && other.discover == upstream.discover;
            config.upstreams.iter().find(same).filter(|_| is_listed(upstream)).map(|other| other.servers.clone())
        };
        self.install_servers(servers_of).await
    }

    /// Installs other servers for the upstreams for which `servers_of` returns some.
    async fn install_servers(
        &mut self,
        servers_of: impl Fn(&UpstreamConfig) -> Option<Vec<ServerConfig>>,
    ) -> Result<(), ReloadError> {
        let mut config = self.config.clone();
        let mut changes = Vec::new();
        for upstream in &mut config.upstreams {
            let Some(servers) = servers_of(upstream).filter(|servers| *servers != upstream.servers) else { continue };
            let before = std::mem::replace(&mut upstream.servers, servers);
            changes.push(Change::new(upstream, &before));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let summary = self.install(config, ReloadOptions { dry_run: false, force: true }).await?;
        let (generation, ended) = (summary.generation, summary.ended_total());
        for Change { upstream, source, servers, added, removed } in changes {
            tracing::info!(%upstream, source, servers, added, removed, generation, ended, "servers changed");
        }
        Ok(())
    }

    /// Records for operators that the files with servers were read, except those that cannot be used.
    pub(super) fn note_listed(&self, unusable: &[Unusable]) {
        for source in self.config.upstreams.iter().filter_map(|upstream| upstream.discover.as_ref()) {
            let Discover::InFile(path) = source else { continue };
            if !unusable.iter().any(|unusable| unusable.group.contains(path)) {
                self.gateway.discoveries.note_file(source, Ok(()));
            }
        }
    }

    /// Records for operators that a file with servers cannot be used.
    pub(super) fn note_unusable(&self, group: &[PathBuf], report: &Report) {
        let first = report.diagnostics().first();
        let error = first.map_or_else(String::new, |first| format!("{}: {}", first.message, first.label));
        for path in group {
            self.gateway.discoveries.note_file(&Discover::InFile(path.clone()), Err(error.clone()));
        }
    }
}

/// The change of an upstream's servers, for the log.
struct Change {
    upstream: Arc<str>,
    source: String,
    servers: usize,
    added: usize,
    removed: usize,
}

impl Change {
    fn new(upstream: &UpstreamConfig, before: &[ServerConfig]) -> Self {
        let only_in = |these: &[ServerConfig], others: &[ServerConfig]| {
            let is_new = |server: &&ServerConfig| !others.iter().any(|other| other.address == server.address);
            these.iter().filter(is_new).count()
        };
        Self {
            upstream: Arc::clone(&upstream.name),
            source: upstream.discover.as_ref().map_or_else(String::new, Discover::to_string),
            servers: upstream.servers.len(),
            added: only_in(&upstream.servers, before),
            removed: only_in(before, &upstream.servers),
        }
    }
}
