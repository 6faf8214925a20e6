//! The settings that only a restart changes.

use crate::config::Config;

/// Names the settings that differ and need a restart, one warning each. A new process that takes over the listeners and
/// the sessions has them, too, but a Unix socket keeps its file.
pub fn needs_restart(running: &Config, next: &Config) -> Vec<String> {
    let (server, log) = (&running.server, &running.log);
    let differs = [
        ("server.workers", server.workers != next.server.workers),
        ("server.max_handshakes", server.max_handshakes != next.server.max_handshakes),
        ("server.handshakes_per_address", server.handshakes_per_address != next.server.handshakes_per_address),
        ("server.max_http_requests", server.max_http_requests != next.server.max_http_requests),
        ("server.state_dir", server.state_dir != next.server.state_dir),
        ("log.format", log.format != next.log.format),
        ("log.session_start", log.session_start != next.log.session_start),
        ("log.slow_upgrade", log.slow_upgrade != next.log.slow_upgrade),
        ("log.subject", log.subject != next.log.subject),
        ("log.address", log.address != next.log.address),
        ("admin", running.admin != next.admin),
        ("metrics", running.metrics != next.metrics),
        ("cluster", running.cluster != next.cluster),
    ];
    let differing = differs.into_iter().filter(|(_, differs)| *differs);
    let mut warnings: Vec<String> =
        differing.map(|(name, _)| format!("{name} changes only at a restart or `tollgate upgrade`")).collect();
    if is_regrouped(running, next) {
        warnings.push("listener.socket_group changes only at a restart".to_owned());
    }
    warnings
}

/// Whether a Unix socket that stays bound is to have another group.
fn is_regrouped(running: &Config, next: &Config) -> bool {
    next.listeners.iter().any(|listener| {
        let same = running.listeners.iter().find(|bound| bound.address == listener.address);
        same.is_some_and(|bound| bound.socket_group != listener.socket_group)
    })
}

/// Replaces the settings that need a restart by those of the running process.
pub fn adopt_fixed(next: &mut Config, running: &Config) {
    next.server.workers = running.server.workers;
    next.server.max_handshakes = running.server.max_handshakes;
    next.server.handshakes_per_address = running.server.handshakes_per_address;
    next.server.max_http_requests = running.server.max_http_requests;
    next.server.state_dir.clone_from(&running.server.state_dir);
    let level = next.log.level;
    next.log = running.log;
    next.log.level = level;
    next.admin.clone_from(&running.admin);
    next.metrics = running.metrics;
    next.cluster.clone_from(&running.cluster);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::tests::InMemory;

    fn config(lines: &str) -> Config {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:443\"\ncertificates = [{{ chain = \"chain.pem\", key = \"key.pem\" }}]\n\
             [upstream.chat]\nservers = [\"127.0.0.1:9001\"]\n\
             [[route]]\nname = \"chat\"\npath = \"/\"\nupstream = \"chat\"\nauth = \"none\"\n{lines}"
        );
        crate::config::parse(&text, Path::new("tollgate.toml"), Path::new(""), &InMemory::new()).unwrap()
    }

    #[test]
    fn a_changed_cluster_needs_a_restart() {
        let cluster = |rest: &str| config(&format!("[cluster]\nurl = \"redis://localhost\"\n{rest}\n"));
        let (none, plain) = (config(""), cluster(""));
        let (secret, other) = (cluster("secret_file = \"secret\""), cluster("secret_file = \"other\""));
        for (running, next) in [(&none, &plain), (&plain, &none), (&plain, &secret), (&secret, &other)] {
            assert_eq!(needs_restart(running, next), ["cluster changes only at a restart or `tollgate upgrade`"]);
            let mut adopted = next.clone();
            adopt_fixed(&mut adopted, running);
            assert_eq!(adopted.cluster, running.cluster);
        }
        assert_eq!(needs_restart(&secret, &cluster("secret_file = \"secret\" # the same")), [""; 0]);
    }
}
