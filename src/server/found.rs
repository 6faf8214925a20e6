//! Keeps the servers that look-ups have found when the configuration is read again.

use crate::balance::{Discover, UpstreamConfig};
use crate::config::Config;

/// Gives the upstreams of the next configuration the servers that look-ups have found. An upstream whose source is new
/// keeps the servers that it has until the first look-up succeeds.
pub fn adopt_discovered(next: &mut Config, running: &Config) {
    let is_looked_up = |upstream: &&mut UpstreamConfig| upstream.discover.as_ref().is_some_and(Discover::is_looked_up);
    for upstream in next.upstreams.iter_mut().filter(is_looked_up) {
        let same_source = |other: &&UpstreamConfig| other.discover == upstream.discover && !other.servers.is_empty();
        let same_name = |other: &&UpstreamConfig| other.name == upstream.name;
        let before = running.upstreams.iter().find(same_source);
        if let Some(before) = before.or_else(|| running.upstreams.iter().find(same_name)) {
            upstream.servers.clone_from(&before.servers);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::balance::discovery::found_server;
    use crate::config;
    use crate::config::tests::InMemory;

    /// Parses a configuration with these sections of upstreams, and with the servers on these hosts for each.
    fn config(upstreams: &[(&str, &str, &[&str])]) -> Config {
        let section = |(name, keys, _): &(&str, &str, &[&str])| format!("[upstream.{name}]\n{keys}\n");
        let sections: String = upstreams.iter().map(section).collect();
        let text = format!(
            "listener = [{{ address = \"[::1]:0\", certificates = [{{ chain = \"chain.pem\", key = \"key.pem\" }}] }}]\n\
             route = [{{ name = \"open\", path = \"/\", upstream = \"a\", auth = \"none\" }}]\n{sections}"
        );
        let mut config = config::parse(&text, Path::new("tollgate.toml"), Path::new(""), &InMemory::new()).unwrap();
        for (upstream, (_, _, hosts)) in config.upstreams.iter_mut().zip(upstreams) {
            let found = |host: &&str| found_server((*host).to_owned(), 9001, std::num::NonZeroU16::MIN);
            upstream.servers.extend(hosts.iter().map(found));
        }
        config
    }

    fn servers(config: &Config) -> Vec<Vec<String>> {
        let names = |upstream: &UpstreamConfig| {
            upstream.servers.iter().map(|server| server.address.to_string()).collect::<Vec<_>>()
        };
        config.upstreams.iter().map(names).collect()
    }

    #[test]
    fn a_reload_keeps_what_was_found() {
        let (dns, other) = ("discover = \"dns:chat.internal:9001\"", "discover = \"dns:new.internal:9001\"");
        let running = config(&[("a", dns, &["192.0.2.1"]), ("b", "servers = [\"192.0.2.9:9001\"]", &[])]);
        let after = |upstreams: &[(&str, &str, &[&str])]| {
            let mut next = config(upstreams);
            adopt_discovered(&mut next, &running);
            servers(&next)
        };
        assert_eq!(after(&[("a", dns, &[])]), [["192.0.2.1:9001"]]);
        // Another upstream with the same source has its servers at once.
        assert_eq!(after(&[("a", other, &[]), ("c", dns, &[])]), [["192.0.2.1:9001"], ["192.0.2.1:9001"]]);
        // The servers of an upstream stay until its new source is looked up.
        assert_eq!(after(&[("a", other, &[]), ("b", other, &[])]), [["192.0.2.1:9001"], ["192.0.2.9:9001"]]);
        assert_eq!(after(&[("a", "servers = [\"192.0.2.8:9001\"]", &[])]), [["192.0.2.8:9001"]]);
        let fresh: [Vec<String>; 2] = [vec!["192.0.2.1:9001".to_owned()], Vec::new()];
        assert_eq!(after(&[("a", dns, &[]), ("c", other, &[])]), fresh);
    }
}
