//! TLS tickets whose keys are derived from the secret of a cluster, across upgrades of the process.

use std::fs;
use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::version::TLS13;

use super::Stage;
use crate::support::pki::client_config;
use crate::support::request::Request;
use crate::support::secrets::remember;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;

/// The new process derives the same keys. If the secret has changed, it refuses the tickets of the process before, which
/// still had the earlier one.
#[test]
fn an_upgrade_reads_the_secret_again() {
    let secrets = ["the secret of the nodes, for tests 3", "the secret of the nodes, for tests 4"];
    secrets.iter().for_each(|secret| remember(secret));
    let cluster = "[cluster]\nurl = \"unix:/nonexistent/redis.sock\"\nsecret_file = \"cluster-secret\"\n";
    let mut stage = Stage::new(Setup::new().more(cluster).file("cluster-secret", secrets[0]));
    let config = Arc::new(client_config(&[&TLS13]));
    let resume = |stage: &Stage, expected: HandshakeKind| {
        let client = Client::connect_with(&stage.gate, Arc::clone(&config), "chat.example.com");
        assert_eq!(client.stream.conn.handshake_kind(), Some(expected));
        Session::open_over(client, &stage.upstream, &Request::to("/open/"), &[]).close();
        stage.api.wait_for_sessions(0);
    };
    resume(&stage, HandshakeKind::Full);
    stage.move_all(0);
    resume(&stage, HandshakeKind::Resumed);
    fs::write(stage.gate.folder.path("cluster-secret"), secrets[1]).unwrap();
    stage.gate.log.next("cluster changes only at a restart or `tollgate upgrade`");
    resume(&stage, HandshakeKind::Resumed);
    stage.move_all(0);
    resume(&stage, HandshakeKind::Full);
    resume(&stage, HandshakeKind::Resumed);
}
