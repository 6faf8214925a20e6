//! `[cluster]`: where its values arrive, its defaults, warnings and secrets.

use std::time::Duration;

use tollgate::config::{ClusterConfig, ClusterServers, Config, OnOutage, Shares};
use tollgate::policy::remote::Roots;

use super::{everything, example, parse};

fn cluster(config: &Config) -> &ClusterConfig {
    config.cluster.as_deref().unwrap()
}

/// Returns the configuration of the example with this URL and these lines.
fn with(url: &str, lines: &str) -> Config {
    let text = example().replace("url = \"redis://127.0.0.1:6379\"", &format!("url = {url:?}\n{lines}"));
    parse(&text).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn values_reach_their_fields() {
    let config = everything();
    let cluster = cluster(&config);
    let servers = ClusterServers::Sentinel {
        sentinels: vec![("10.0.0.1".to_owned(), 26_379), ("fd00::2".to_owned(), 5000)],
        master: "main".to_owned(),
        tls: true,
        db: 2,
    };
    assert_eq!(cluster.servers, servers);
    assert_eq!(cluster.servers.to_string(), "rediss+sentinel://10.0.0.1:26379,[fd00::2]:5000/main/2");
    assert_eq!(cluster.username.as_deref(), Some("tollgate"));
    // The line end at the end of a file belongs to neither secret.
    assert_eq!(cluster.password.as_ref().map(|password| password.as_str()), Some("a password of Redis"));
    let secret = b"the secret of the nodes, of 38 bytes..".as_slice();
    assert_eq!(cluster.secret.as_ref().map(|secret| secret.as_slice()), Some(secret));
    assert!(matches!(&cluster.roots, Roots::Certificates(all) if all.len() == 1));
    assert_eq!((&*cluster.prefix, cluster.on_outage), ("chat:", OnOutage::Refuse));
    assert_eq!((cluster.timeout, cluster.node_timeout), (Duration::from_millis(50), Duration::from_secs(60)));
    assert_eq!(cluster.share, Shares { quotas: true, slots: true, revocations: false, sessions: false });
}

#[test]
fn only_the_url_is_required() {
    let config = with("unix:/run/redis.sock", "");
    let cluster = cluster(&config);
    assert_eq!(cluster.servers.to_string(), "unix:/run/redis.sock");
    assert_eq!((&cluster.username, &cluster.password, &cluster.secret), (&None, &None, &None));
    assert_eq!((&cluster.roots, &*cluster.prefix), (&Roots::System, "tollgate:"));
    assert_eq!((cluster.timeout, cluster.node_timeout), (Duration::from_millis(200), Duration::from_secs(15)));
    assert_eq!(cluster.share, Shares { quotas: true, slots: true, revocations: true, sessions: true });
    assert_eq!(cluster.on_outage, OnOutage::Local);
    assert!(
        parse(&example().replace("\n[cluster]\n", "\n").replace("\nurl = ", "\n# url = ")).unwrap().cluster.is_none()
    );
}

/// The password of the default user needs no name.
#[test]
fn a_password_needs_no_user_name() {
    let config = with("rediss://redis.internal", "password_file = \"redis-password\"");
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    let cluster = cluster(&config);
    assert!(cluster.username.is_none() && cluster.password.is_some());
}

#[test]
fn a_plain_connection_over_a_public_network_is_a_warning() {
    let said = with("redis://192.0.2.1", "").warnings.to_string();
    assert!(said.contains("warning: the connection to 192.0.2.1 is not encrypted"), "{said}");
    for url in ["rediss://192.0.2.1", "redis://10.0.0.1", "redis://redis.internal", "unix:/run/redis.sock"] {
        let warnings = with(url, "").warnings;
        assert!(warnings.is_empty(), "{warnings}");
    }
}

#[test]
fn configurations_that_differ_in_the_cluster_are_not_equal() {
    let same = with("redis://127.0.0.1", "");
    assert_eq!(same, with("valkey://127.0.0.1:6379/0", "# a comment"));
    for (url, lines) in [
        ("redis://127.0.0.1/1", ""),
        ("redis://127.0.0.1", "password_file = \"redis-password\""),
        ("redis://127.0.0.1", "secret_file = \"cluster-secret\""),
        ("redis://127.0.0.1", "share = [\"slots\"]"),
    ] {
        assert!(same != with(url, lines), "{url} {lines}");
    }
    let (first, second) = ("secret_file = \"cluster-secret\"", "secret_file = \"sticky-secret\"");
    assert!(with("redis://127.0.0.1", first) != with("redis://127.0.0.1", second));
}

#[test]
fn debug_omits_the_secrets() {
    let config = everything();
    let text = format!("{config:?}");
    assert!(text.contains("ClusterConfig") && !text.contains("a password of Redis"), "{text}");
    assert!(!text.contains("the secret of the nodes") && !text.contains("116, 104, 101"), "{text}");
}

/// A URL with a password is an error, and no report of it shows the password.
#[test]
fn a_password_in_the_url_is_not_shown() {
    for url in [
        "\"redis://ada:hunter2@127.0.0.1\"",
        "'redis://:hunter2@127.0.0.1'",
        "\"\\u0072edis://:hunter2@127.0.0.1\"",
        "\"\"\"redis://:hunter2@127.0.0.1\"\"\"",
        "\"redis://127.0.0.1?password=hunter2\"",
        "\"unix:/run/redis.sock?user=ada&pass=hunter2\"",
    ] {
        let text = example().replace("url = \"redis://127.0.0.1:6379\"", &format!("url = {url} # hunter2"));
        let report = parse(&text).unwrap_err();
        let said = format!("{report} {:?}", report.lines().collect::<Vec<_>>());
        assert!(!said.contains("hunter2"), "{said}");
        assert!(said.contains("`url` has a user name or a password") && said.contains("`password_file`"), "{said}");
    }
}
