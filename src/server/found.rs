//! Keeps the servers that look-ups have found when the configuration is read again, and in the process that follows.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::balance::discovery::{FOUND_MAX, FoundSet, found_server};
use crate::balance::{Discover, Pool, ServerAddress, ServerConfig, UpstreamConfig};
use crate::config::Config;
use crate::front::snapshot::Snapshot;

/// The servers that were found for one source, as another process takes them over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundServers {
    /// The source, as the configuration file has it.
    source: String,
    /// The host, the port and the weight of each server.
    servers: Vec<(String, u16, NonZeroU16)>,
}

/// Returns the servers of the upstreams whose servers are looked up.
pub fn export(snapshot: &Snapshot) -> Vec<FoundServers> {
    snapshot.pools().filter_map(|pool| exported(pool)).collect()
}

fn exported(pool: &Pool) -> Option<FoundServers> {
    let config = pool.config();
    let source = config.discover.as_ref().filter(|discover| discover.is_looked_up())?.to_string();
    let server = |server: &ServerConfig| match &server.address {
        ServerAddress::Tcp { host, port } => Some((host.clone(), *port, server.weight)),
        ServerAddress::Unix(_) => None,
    };
    Some(FoundServers { source, servers: config.servers.iter().filter_map(server).collect() })
}

/// Gives the upstreams of the configuration of a new process the servers that the process before has found for the same
/// source. They stay until the first look-up succeeds.
pub fn adopt_moved(config: &mut Config, moved: &[FoundServers]) {
    let upstreams = config.upstreams.iter_mut().filter_map(|upstream| {
        let source = upstream.discover.as_ref().filter(|discover| discover.is_looked_up())?.to_string();
        Some((&mut upstream.servers, moved.iter().find(|moved| moved.source == source)?))
    });
    for (servers, moved) in upstreams {
        let found = moved.servers.iter().take(FOUND_MAX);
        let found = found.map(|(host, port, weight)| found_server(host.clone(), *port, *weight));
        *servers = FoundSet::new(found.collect()).servers;
    }
}

/// Gives the upstreams of the next configuration the servers that look-ups have found: `found` returns those of a
/// source. An upstream whose source is new keeps the servers that it has until the first look-up succeeds.
pub fn adopt_discovered(next: &mut Config, running: &Config, found: impl Fn(&Discover) -> Option<Vec<ServerConfig>>) {
    let is_looked_up = |upstream: &&mut UpstreamConfig| upstream.discover.as_ref().is_some_and(Discover::is_looked_up);
    for upstream in next.upstreams.iter_mut().filter(is_looked_up) {
        // A running upstream with the same source is no proof: it may still have the servers of its source before.
        if let Some(servers) = upstream.discover.as_ref().and_then(&found) {
            upstream.servers = servers;
        } else if let Some(before) = running.upstreams.iter().find(|before| before.name == upstream.name) {
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
        let is_found = |source: &Discover| source.to_string() == "dns:chat.internal:9001";
        let set = || vec![found_server("192.0.2.1".to_owned(), 9001, std::num::NonZeroU16::MIN)];
        let found = |source: &Discover| is_found(source).then(set);
        let after = |upstreams: &[(&str, &str, &[&str])]| {
            let mut next = config(upstreams);
            adopt_discovered(&mut next, &running, found);
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

    #[test]
    fn a_new_process_has_the_servers_of_the_same_source_at_once() {
        let (dns, other) = ("discover = \"dns:chat.internal:9001\"", "discover = \"dns:new.internal:9001\"");
        let mut next = config(&[("a", other, &[]), ("b", dns, &[]), ("c", "servers = [\"192.0.2.8:9001\"]", &[])]);
        let found = |host: &str| (host.to_owned(), 9001, NonZeroU16::MIN);
        let source = "dns:chat.internal:9001".to_owned();
        // An address that no look-up may return is left out here, too.
        let moved = [FoundServers { source, servers: vec![found("192.0.2.1"), found("0.0.0.0"), found("192.0.2.1")] }];
        adopt_moved(&mut next, &moved);
        let expected: [Vec<String>; 3] =
            [Vec::new(), vec!["192.0.2.1:9001".to_owned()], vec!["192.0.2.8:9001".to_owned()]];
        assert_eq!(servers(&next), expected);
    }

    #[test]
    fn servers_of_an_earlier_source_are_not_those_of_the_next() {
        let other = "discover = \"dns:new.internal:9001\"";
        // The look-up of the new source of `a` has not succeeded yet.
        let running = config(&[("a", other, &["192.0.2.1"])]);
        let mut next = config(&[("a", other, &[]), ("b", other, &[])]);
        adopt_discovered(&mut next, &running, |_| None);
        assert_eq!(servers(&next), [vec!["192.0.2.1:9001".to_owned()], Vec::new()]);
    }
}
