//! The end of sessions whose token expires, and of those that reach their maximum age.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::json;

use crate::support::pki::{AUDIENCE, ISSUER, token};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Frame;

/// Returns an `[auth]` section with these lines, and a route `/NAME` that uses it.
fn section(name: &str, lines: &str) -> String {
    format!(
        "[auth.{name}]\nissuer = {ISSUER:?}\naudience = [{AUDIENCE:?}]\nalgorithms = [\"ES256\"]\n\
         public_key_file = \"token.pem\"\nleeway = \"0s\"\n{lines}\n\
         [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"main\"\nauth = \"{name}\"\n"
    )
}

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn expect_both(session: &mut Session, code: u16, reason: &str) {
    assert_eq!(session.client.expect_close(code), reason);
    assert_eq!(session.server.expect_close(code), reason);
    session.client.send_frame(Frame::close(code, ""));
    session.server.send_frame(Frame::close(code, ""));
}

/// The end of the first session shows that the token has expired. Two sections let their sessions continue.
#[test]
fn sessions_end_when_their_section_says_so() {
    let upstream = Upstream::bind();
    let sections = [
        section("strict", "expiry_close_code = 4403"),
        section("late", "leeway = \"1s\"\nexpiry_grace = \"1s\"").replacen("leeway = \"0s\"\n", "", 1),
        section("patient", "on_expiry = \"ignore\""),
        section("graced", "expiry_grace = \"1h\""),
    ];
    let gate = Setup::new().more(&sections.concat()).start(&upstream);
    let expires = Duration::from_secs(unix().as_secs() + 2);
    let token = token(&json!({ "exp": expires.as_secs() }));
    let [mut strict, mut late, mut patient, mut graced] =
        ["/strict", "/late", "/patient", "/graced"].map(|path| Session::open_at(&gate, &upstream, path, &token));
    for (session, code, ends) in [(&mut strict, 4403, expires), (&mut late, 1008, expires + Duration::from_secs(2))] {
        expect_both(session, code, "token expired");
        let late = unix().checked_sub(ends).expect("the session ended early");
        assert!(late < Duration::from_secs(1), "{late:?}");
        let line = gate.log.next("session ended");
        assert_eq!((&line["cause"], &line["code"]), (&json!("token_expired"), &json!(code)));
    }
    for (session, path) in [(&mut patient, "/patient"), (&mut graced, "/graced")] {
        session.echo("later");
        // The grace is that of open sessions.
        let status = Client::connect(&gate).ask(&Request::to(path).bearer(&token)).head.status();
        assert_eq!(status, 401, "{path}");
    }
}

/// A deadline that moves into the past ends the session at once. The reload counts it as ended, as it does all sessions
/// that it ends.
#[test]
fn a_reload_changes_when_sessions_end() {
    let upstream = Upstream::bind();
    let patient = section("patient", "on_expiry = \"ignore\"");
    let gate = Setup::new().more(&[section("strict", ""), patient].concat()).start(&upstream);
    let soon = token(&json!({ "exp": unix().as_secs() + 2 }));
    let [mut strict, mut patient] = ["/strict", "/patient"].map(|path| Session::open_at(&gate, &upstream, path, &soon));
    let mut extended = Session::open_at(&gate, &upstream, "/strict", &token(&json!({})));
    expect_both(&mut strict, 1008, "token expired");
    gate.log.next("session ended");
    // Even a token that expired long ago admits with a longer grace.
    let line = gate.reload(|text| text.replace("on_expiry = \"ignore\"", "expiry_grace = \"1h\""));
    assert_eq!((&line["changed"], &line["ended"]), (&json!(1), &json!(0)), "{line}");
    patient.echo("later");
    gate.edit(|text| text.replace("expiry_grace = \"1h\"", "expiry_close_code = 4001"));
    gate.signal(Signal::HUP);
    let refused = |line: &str| line.contains("sessions would end, and recheck_max is 20%: --force permits it");
    gate.log.wait_for("the refused reload", refused);
    patient.echo("later");
    let line = gate.reload(|text| text.replace("[server]\n", "[server]\nrecheck_max = \"off\"\n"));
    assert_eq!(line["ended"], 1, "{line}");
    expect_both(&mut patient, 4001, "token expired");
    let line = gate.log.next("session ended");
    assert_eq!((&line["cause"], &line["code"]), (&json!("token_expired"), &json!(4001)));
    extended.echo("still here");
}

#[test]
fn a_reload_that_sets_a_maximum_age_ends_older_sessions_at_once() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut old = Session::open(&gate, &upstream);
    let began = unix();
    old.echo("first");
    // The shortest age, of which a random part of up to a tenth is missing.
    while unix() < began + Duration::from_secs(1) {
        old.echo("wait");
    }
    let age = |text: String| text.replace("close_timeout", "max_session_age = \"1s\"\nclose_timeout");
    let line = gate.reload(age);
    assert_eq!((&line["changed"], &line["ended"]), (&json!(1), &json!(0)), "{line}");
    expect_both(&mut old, 1001, "maximum session age");
    assert_eq!(gate.log.next("session ended")["cause"], "max_session_age");
    // A new session may be as old, and no older.
    let mut new = Session::open(&gate, &upstream);
    let began = unix();
    expect_both(&mut new, 1001, "maximum session age");
    let age = unix().saturating_sub(began);
    assert!(age > Duration::from_millis(800) && age < Duration::from_secs(3), "{age:?}");
}
