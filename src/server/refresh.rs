//! Installs files that have changed, without the configuration that names them.

use super::files::{Refreshed, Unusable};
use super::found::adopt_discovered;
use super::reload::{ReloadOptions, ReloadSummary, Reloader};
use super::restart::{adopt_fixed, needs_restart};

impl Reloader {
    /// Reads the files that the configuration names again, without the configuration itself, and installs those that
    /// have changed and can be used. The files of one section, such as a certificate and its key, change together.
    pub async fn refresh_files(&mut self) {
        let (refreshed, unusable) = self.files.refresh(&self.config.source);
        self.note_listed(&unusable);
        self.report_unusable(unusable);
        let Some(Refreshed { mut config, files, changed }) = refreshed else { return };
        let names: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
        let names = names.join(", ");
        self.revoke_listed(&config).await;
        let fixed = needs_restart(&self.config, &config);
        adopt_fixed(&mut config, &self.config);
        adopt_discovered(&mut config, &self.config, |source| self.gateway.discoveries.servers(source));
        let installed = match self.install_listed(&config).await {
            // Another text of the same content has no effect.
            Ok(()) if config == self.config => {
                for line in fixed {
                    tracing::warn!(files = names, "{line}");
                }
                self.files = files;
                self.refused = None;
                return;
            }
            Ok(()) => self.install(config, ReloadOptions::default()).await,
            Err(error) => Err(error),
        };
        match installed {
            Ok(summary) => {
                self.files = files;
                self.refused = None;
                summary.warnings.iter().for_each(|line| tracing::warn!("{line}"));
                let ReloadSummary { generation, kept, changed, .. } = summary;
                tracing::info!(
                    files = names,
                    generation,
                    kept,
                    changed,
                    ended = summary.ended_total(),
                    "files reloaded"
                );
            }
            // Tried again with each change and at intervals, and reported once.
            Err(error) if self.refused.as_ref() != Some(&files) => {
                tracing::warn!(files = names, %error, "changed files are not used");
                self.refused = Some(files);
            }
            Err(_) => {}
        }
    }

    /// Logs the files that cannot be used, once for each content.
    fn report_unusable(&mut self, unusable: Vec<Unusable>) {
        let mut reported = Vec::new();
        for Unusable { group, report } in unusable {
            let files: Vec<String> = group.iter().map(|path| path.display().to_string()).collect();
            let (files, text) = (files.join(", "), report.to_string());
            if !self.reported.contains(&(group.clone(), text.clone())) {
                self.note_unusable(&group, &report);
                text.lines().for_each(|line| tracing::warn!("{line}"));
                tracing::warn!(files, "changed files cannot be used: the earlier ones stay in use");
            }
            reported.push((group, text));
        }
        self.reported = reported;
    }
}
