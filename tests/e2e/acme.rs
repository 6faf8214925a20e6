//! A listener whose certificates ACME gets, without a certificate authority: what is stored is served, and nothing else. The
//! interop suite `acme` makes orders.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::admin::Api;
use crate::support::PATIENCE;
use crate::support::gate::{Folder, Gate};
use crate::support::pki::{Leaf, client_config};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

/// No server listens there.
const DIRECTORY: &str = "http://127.0.0.1:1/directory";
const STORED: &str = "chat.example.com";
const MISSING: &str = "api.example.com";

/// Returns the directory of the section below a `state_dir`.
fn section(state: &Path) -> PathBuf {
    let hash = digest(&SHA256, DIRECTORY.as_bytes());
    let hash: String = hash.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    state.join(format!("acme/test-{hash}"))
}

fn store(state: &Path, name: &str, content: &str) {
    let folder = section(state);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.pem")), content).unwrap();
}

fn setup(state: &Folder) -> Setup {
    let names = format!("domains = [{STORED:?}, {MISSING:?}]");
    let acme = format!("[acme.test]\ndirectory = {DIRECTORY:?}\naccept_terms = true\n{names}\n");
    Setup::new().server(&format!("state_dir = {:?}", state.path(""))).listener("acme = \"test\"").more(&acme)
}

/// Does a handshake, and returns the protocol that was negotiated.
fn handshake(gate: &Gate, name: &str, offered: &[&[u8]]) -> io::Result<Option<Vec<u8>>> {
    let mut config = client_config(&[&TLS13, &TLS12]);
    config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    let mut stream = TcpStream::connect(gate.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let name = name.to_owned().try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(tls.alpn_protocol().map(<[u8]>::to_vec))
}

#[test]
fn a_stored_certificate_is_served_and_a_name_without_one_is_unrecognized() {
    let (upstream, state, leaf) = (Upstream::bind(), Folder::new(), Leaf::new(&[STORED]));
    store(&state.path(""), STORED, &format!("{}{}", leaf.chain_pem, leaf.key_pem));
    let gate = setup(&state).start(&upstream);
    for version in [&TLS12, &TLS13] {
        let client = Client::connect_with(&gate, Arc::new(client_config(&[version])), STORED);
        assert_eq!(client.stream.conn.peer_certificates().unwrap()[0], leaf.der);
        Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    }
    let (http, acme): (&[u8], &[u8]) = (b"http/1.1", b"acme-tls/1");
    for (name, offered, expected) in [
        (STORED, &[http][..], Ok(Some(http.to_vec()))),
        (STORED, &[acme, http], Ok(Some(http.to_vec()))),
        ("Chat.Example.COM", &[http], Ok(Some(http.to_vec()))),
        // There is no challenge.
        (STORED, &[acme], Err("UnrecognisedName")),
        (MISSING, &[http], Err("UnrecognisedName")),
        (MISSING, &[], Err("UnrecognisedName")),
        // A name that the section lacks gets a valid certificate, which the client then refuses.
        ("other.example.com", &[http], Err("not valid for name")),
    ] {
        let found = handshake(&gate, name, offered).map_err(|error| error.to_string());
        match expected {
            Ok(protocol) => assert_eq!(found, Ok(protocol), "{name} {offered:?}"),
            Err(alert) => assert!(found.as_ref().is_err_and(|error| error.contains(alert)), "{name}: {found:?}"),
        }
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    gate.log.wait_for("failure", |line| line.contains("no certificate: clients of this name cannot connect"));
    gate.log.wait_for("the warning", |line| line.contains("handshakes for this name fail"));
    let missing = gate.log.all("handshakes for this name fail: it has no certificate yet");
    assert_eq!(missing.len(), 1);
    assert_eq!((&missing[0]["name"], &missing[0]["acme"]), (&MISSING.into(), &"test".into()));
    assert_eq!(mode(&section(&state.path(""))), 0o700, "others have no access, whoever made it");
}

#[test]
fn a_damaged_certificate_is_renamed_and_not_overwritten() {
    let (upstream, state, leaf) = (Upstream::bind(), Folder::new(), Leaf::new(&[STORED]));
    let whole = format!("{}{}", leaf.chain_pem, leaf.key_pem);
    let other = Leaf::new(&["elsewhere.example.com"]);
    for content in [
        &whole[..whole.len() - 40],
        &leaf.chain_pem,
        "",
        &format!("{}{}", leaf.chain_pem, other.key_pem),
        &format!("{}{}", other.chain_pem, other.key_pem),
    ] {
        store(&state.path(""), STORED, content);
        let gate = setup(&state).start(&upstream);
        let damaged = section(&state.path("")).join(format!("{STORED}.pem.damaged"));
        assert!(handshake(&gate, STORED, &[]).is_err_and(|error| error.to_string().contains("UnrecognisedName")));
        assert_eq!(fs::read_to_string(damaged).unwrap(), content);
        assert!(!section(&state.path("")).join(format!("{STORED}.pem")).exists());
    }
}

#[test]
fn a_reload_to_another_authority_serves_none_of_the_certificates_of_the_first() {
    let (upstream, state, leaf) = (Upstream::bind(), Folder::new(), Leaf::new(&[STORED]));
    store(&state.path(""), STORED, &format!("{}{}", leaf.chain_pem, leaf.key_pem));
    let gate = setup(&state).start(&upstream);
    let session = Session::open(&gate, &upstream);
    assert!(handshake(&gate, STORED, &[]).is_ok());
    gate.reload(|text| text.replace(DIRECTORY, "http://127.0.0.1:1/other"));
    assert!(handshake(&gate, STORED, &[]).is_err());
    gate.reload(|text| text.replace("http://127.0.0.1:1/other", DIRECTORY));
    assert!(handshake(&gate, STORED, &[]).is_ok());
    session.close();
}

#[test]
fn the_api_lists_the_names_that_have_no_certificate_yet() {
    let (upstream, state, leaf, api) = (Upstream::bind(), Folder::new(), Leaf::new(&[STORED]), Api::new());
    store(&state.path(""), STORED, &format!("{}{}", leaf.chain_pem, leaf.key_pem));
    let gate = setup(&state).more(&api.section()).start(&upstream);
    gate.log.next("admin API");
    let listed = api.get("/v1/certificates");
    let [missing, stored] = listed["certificates"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&missing["names"], &missing["expires"]), (&[MISSING].as_slice().into(), &Value::Null));
    assert_eq!((&stored["names"], stored["days_left"].as_f64() > Some(1.0)), (&[STORED].as_slice().into(), true));
    let text = fs::read_to_string(gate.folder.path("tollgate.toml")).unwrap();
    let line = text.lines().position(|line| line.starts_with("acme = ")).unwrap() + 1;
    assert_eq!([&missing["line"], &stored["line"]], [&Value::from(line); 2]);
}
