//! URLs of servers and what they mean, and those that are rejected.

use super::ClusterUrlError::*;
use super::*;

fn addresses(all: &[(&str, u16)]) -> Vec<(String, u16)> {
    all.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect()
}

fn single(host: &str, port: u16, tls: bool, db: u32) -> ClusterServers {
    ClusterServers::Single { address: RedisAddress::Tcp(host.to_owned(), port), tls, db }
}

fn unix(path: &str, db: u32) -> ClusterServers {
    ClusterServers::Single { address: RedisAddress::Unix(path.into()), tls: false, db }
}

fn sentinel(sentinels: &[(&str, u16)], master: &str, tls: bool, db: u32) -> ClusterServers {
    ClusterServers::Sentinel { sentinels: addresses(sentinels), master: master.to_owned(), tls, db }
}

fn cluster(nodes: &[(&str, u16)], tls: bool) -> ClusterServers {
    ClusterServers::Cluster { nodes: addresses(nodes), tls }
}

#[test]
fn each_form_is_parsed_and_shown() {
    let three = [("10.0.0.1", 26_379), ("b.internal", 5000), ("fd00::3", 26_379)];
    let table = [
        ("redis://127.0.0.1", single("127.0.0.1", 6379, false, 0), "redis://127.0.0.1:6379"),
        ("redis://127.0.0.1:6380/", single("127.0.0.1", 6380, false, 0), "redis://127.0.0.1:6380"),
        ("redis://redis/3", single("redis", 6379, false, 3), "redis://redis:6379/3"),
        ("valkey://redis", single("redis", 6379, false, 0), "redis://redis:6379"),
        ("rediss://Redis.Example.COM", single("redis.example.com", 6379, true, 0), "rediss://redis.example.com:6379"),
        ("valkeys://a:1/2", single("a", 1, true, 2), "rediss://a:1/2"),
        ("REDISS://a", single("a", 6379, true, 0), "rediss://a:6379"),
        ("redis://[::1]", single("::1", 6379, false, 0), "redis://[::1]:6379"),
        ("redis://[FD00:0::1]:65535/10", single("fd00::1", 65_535, false, 10), "redis://[fd00::1]:65535/10"),
        ("unix:/run/redis.sock", unix("/run/redis.sock", 0), "unix:/run/redis.sock"),
        ("unix:/run/redis.sock?db=4", unix("/run/redis.sock", 4), "unix:/run/redis.sock?db=4"),
        ("unix:/run/a@b", unix("/run/a@b", 0), "unix:/run/a@b"),
        (
            "redis+sentinel://10.0.0.1,b.internal:5000,[fd00::3]/main",
            sentinel(&three, "main", false, 0),
            "redis+sentinel://10.0.0.1:26379,b.internal:5000,[fd00::3]:26379/main",
        ),
        (
            "valkeys+sentinel://a/my.main-1_x/7",
            sentinel(&[("a", 26_379)], "my.main-1_x", true, 7),
            "rediss+sentinel://a:26379/my.main-1_x/7",
        ),
        ("rediss+sentinel://a/0/0", sentinel(&[("a", 26_379)], "0", true, 0), "rediss+sentinel://a:26379/0"),
        ("redis+cluster://a", cluster(&[("a", 6379)], false), "redis+cluster://a:6379"),
        ("rediss+cluster://a:1,[::1]:2/", cluster(&[("a", 1), ("::1", 2)], true), "rediss+cluster://a:1,[::1]:2"),
        ("valkey+cluster://a,a:1", cluster(&[("a", 6379), ("a", 1)], false), "redis+cluster://a:6379,a:1"),
    ];
    for (text, expected, shown) in table {
        let parsed = ClusterServers::parse(text);
        assert_eq!(parsed.as_ref(), Ok(&expected), "{text}");
        assert_eq!(expected.to_string(), shown, "{text}");
        assert_eq!(ClusterServers::parse(shown), parsed, "the form that is shown can be parsed");
    }
}

#[test]
fn other_texts_are_rejected() {
    let many = |count: usize| (0..count).map(|number| format!("h{number}")).collect::<Vec<_>>().join(",");
    assert!(ClusterServers::parse(&format!("redis+cluster://{}", many(16))).is_ok());
    let too_many = format!("redis+cluster://{}", many(17));
    let table = [
        ("", Scheme),
        ("127.0.0.1:6379", Scheme),
        ("redis:127.0.0.1", Scheme),
        ("http://a", Scheme),
        ("redis+unix:///run/a", Scheme),
        ("redis+tls://a", Scheme),
        ("redis+sentinel+cluster://a", Scheme),
        ("://a", Scheme),
        ("redis://ada:SECRET@a", UserInfo),
        ("redis://:SECRET@a:1/2", UserInfo),
        ("redis://:SEC/RET@a", UserInfo),
        ("redis://:SEC?RET@a", UserInfo),
        ("redis+sentinel://a,:SECRET@b/main", UserInfo),
        ("redis://a?password=SECRET", UserInfo),
        ("unix:/run/a?user=ada&pass=SECRET", UserInfo),
        ("unix:/run/a?db=1&pass=SECRET", UserInfo),
        ("redis://a?db=1", Query),
        ("redis://a/1#x", Query),
        ("redis://a?", Query),
        ("unix:/run/a?protocol=3", Query),
        ("unix:/run/a?db=1&db=2", Query),
        ("unix:/run/a?db", Query),
        ("unix:/run/a?db=x", Database),
        ("redis://a b", Character),
        ("redis://é", Character),
        ("redis://", Host),
        ("redis:///1", Host),
        ("redis://:6379", Host),
        ("redis://1.2.3", Host),
        ("redis://-a", Host),
        ("redis://a_b..c", Host),
        ("redis://[::1", Host),
        ("redis://[a]", Host),
        ("redis://[127.0.0.1]", Host),
        ("redis://[::1]6379", Host),
        ("redis+cluster://a,", Host),
        ("redis+cluster://a,,b", Host),
        ("redis://::1", Brackets),
        ("redis://fd00::1:6379", Brackets),
        ("redis://a:0", Port),
        ("redis://a:", Port),
        ("redis://a:+1", Port),
        ("redis://a:65536", Port),
        ("redis://[::1]:x", Port),
        ("redis://a,b", Several),
        (&*too_many, TooMany),
        ("redis+cluster://a,A", Twice),
        ("redis+cluster://a,a:6379", Twice),
        ("redis+sentinel://a,a:26379/main", Twice),
        ("redis+sentinel://a", Master),
        ("redis+sentinel://a/", Master),
        ("redis+sentinel://a//1", Master),
        ("redis+sentinel://a/my main", Master),
        ("redis://a/x", Database),
        ("redis://a/+1", Database),
        ("redis://a/-1", Database),
        ("redis://a/4294967296", Database),
        ("redis://a/1/2", Database),
        ("redis+sentinel://a/main/x", Database),
        ("redis+cluster://a/0", ClusterDatabase),
        ("redis+cluster://a/main", ClusterDatabase),
    ];
    for (text, expected) in table {
        assert_eq!(ClusterServers::parse(text), Err(expected.clone()), "{text}");
        let shown = format!("{} {}", expected.label(), expected.help());
        assert!(!shown.contains("SECRET") && !expected.label().is_empty(), "{shown}");
    }
    assert!(matches!(ClusterServers::parse("unix:redis.sock"), Err(Socket(..))));
    assert!(matches!(ClusterServers::parse("unix:"), Err(Socket(..))));
    let master = "m".repeat(65);
    assert_eq!(ClusterServers::parse(&format!("redis+sentinel://a/{master}")), Err(Master));
    assert!(ClusterServers::parse(&format!("redis+sentinel://a/{}", &master[1..])).is_ok());
}

#[test]
fn a_plain_connection_to_a_public_address_is_noticed() {
    let table = [
        ("redis://192.0.2.1", Some("192.0.2.1")),
        ("redis://[2001:db8::1]", Some("2001:db8::1")),
        ("redis://[::ffff:192.0.2.1]", Some("::ffff:192.0.2.1")),
        ("rediss://192.0.2.1", None),
        ("redis://127.0.0.1", None),
        ("redis://10.1.2.3", None),
        ("redis://[fd00::1]", None),
        ("redis://redis.internal", None),
        ("unix:/run/a", None),
        ("redis+sentinel://10.0.0.1,192.0.2.2/main", Some("192.0.2.2")),
        ("redis+cluster://192.0.2.2,192.0.2.3", Some("192.0.2.2")),
        ("rediss+cluster://192.0.2.2", None),
    ];
    for (text, expected) in table {
        let expected = expected.map(|ip| ip.parse().unwrap());
        assert_eq!(ClusterServers::parse(text).unwrap().exposed(), expected, "{text}");
    }
}
