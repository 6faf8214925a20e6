//! Sessions that are to end one after another: each is checked again right before its turn.

use serde_json::{Value, json};

use crate::refresh::renew;
use crate::support::gate::Gate;
use crate::support::pki::{NamedKey, token};
use crate::support::provider::Provider;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

/// One session ends per second, in the order in which they were opened.
const PACED: &str = "workers = 1\nrecheck_rate = \"1/s\"\nrecheck_max = \"off\"";
const LIVE: &str = "[[route]]\nname = \"live\"\npath = \"/live/{room}\"\nrefresh_path = \"/live/refresh\"\n\
                    upstream = \"main\"\nauth = \"users\"\nrequire = { room = \"{room}\" }\n";
const SUBJECTS: [&str; 4] = ["ada", "bob", "cleo", "dan"];

fn setup(provider: &Provider) -> Setup {
    Setup::new().auth(&format!("jwks_url = {:?}", provider.url("/keys"))).more(LIVE)
}

fn open_all(gate: &Gate, upstream: &Upstream, token: impl Fn(&Value) -> String) -> [Session; 4] {
    SUBJECTS.map(|subject| Session::open_at(gate, upstream, "/live/blue", &token(&json!({ "sub": subject }))))
}

/// Makes the process fetch the keys, by a token of a key that no set has.
fn fetch(gate: &Gate, path: &str) {
    let request = Request::to(path).bearer(&NamedKey::new("unknown").token(&json!({})));
    assert_eq!(Client::connect(gate).ask(&request).head.status(), 401);
}

/// The third session would end before the fourth one does.
fn expect_end_of_all_but_third(sessions: [Session; 4], renew_third: impl FnOnce() -> Value) {
    let [mut first, mut second, mut third, mut fourth] = sessions;
    assert_eq!(first.client.expect_close(1008), "no longer admitted");
    assert_eq!(renew_third()["renewed"], 1);
    for session in [&mut second, &mut fourth] {
        assert_eq!(session.client.expect_close(1008), "no longer admitted");
    }
    third.echo("hello");
    third.close();
}

#[test]
fn a_session_that_is_renewed_after_its_key_left_stays_open() {
    let (upstream, [old, new]) = (Upstream::bind(), ["old", "new"].map(NamedKey::new));
    let provider = Provider::start(&[&old]);
    let gate = setup(&provider).server(PACED).start(&upstream);
    let sessions = open_all(&gate, &upstream, |claims| old.token(claims));
    provider.publish(&[&new]);
    fetch(&gate, "/live/blue");
    expect_end_of_all_but_third(sessions, || renew(&gate, &new.token(&json!({ "sub": "cleo" }))));
}

#[test]
fn a_session_that_is_renewed_after_a_reload_rejected_it_stays_open() {
    let upstream = Upstream::bind();
    let gate = Setup::new().more(LIVE).server(PACED).start(&upstream);
    let sessions = open_all(&gate, &upstream, token);
    let require = "require = { room = \"{room}\", role = \"admin\" }";
    let line = gate.reload(|text| text.replace("require = { room = \"{room}\" }", require));
    assert_eq!(line["ended"], 4, "{line}");
    expect_end_of_all_but_third(sessions, || renew(&gate, &token(&json!({ "sub": "cleo", "role": "admin" }))));
}

#[test]
fn sessions_stay_open_if_their_key_comes_back_and_the_next_set_is_not_delayed() {
    let (upstream, [old, new, other]) = (Upstream::bind(), ["old", "new", "other"].map(NamedKey::new));
    let (provider, second) = (Provider::start(&[&old]), Provider::start(&[&other]));
    let auth = format!(
        "[auth.guests]\njwks_url = {:?}\nalgorithms = [\"ES256\"]\n\
         [[route]]\nname = \"lobby\"\npath = \"/lobby\"\nupstream = \"main\"\nauth = \"guests\"\n",
        second.url("/keys")
    );
    let gate = setup(&provider).more(&auth).server(PACED).start(&upstream);
    let open = |path: &str, token: &str| Session::open_with(&gate, &upstream, &Request::to(path).bearer(token), &[]);
    let [mut first, _second, _third, mut fourth] = open_all(&gate, &upstream, |claims| old.token(claims));
    let mut guest = open("/lobby", &other.token(&json!({})));
    // The token of the new key causes one fetch.
    provider.publish(&[&new]);
    let _new = open("/live/blue", &new.token(&json!({})));
    let line = gate.log.next("sessions are ended because the key of their token has left its set");
    assert_eq!((&line["auth"], &line["sessions"]), (&json!("users"), &json!(4)), "{line}");
    assert_eq!(first.client.expect_close(1008), "no longer admitted");
    second.publish(&[&new]);
    let _new_guest = open("/lobby", &new.token(&json!({})));
    let line = gate.log.next("sessions are ended because the key of their token has left its set");
    assert_eq!((&line["auth"], &line["sessions"]), (&json!("guests"), &json!(1)), "{line}");
    // Three seconds have not passed.
    provider.publish(&[&old]);
    fetch(&gate, "/live/blue");
    assert_eq!(guest.client.expect_close(1008), "no longer admitted");
    fourth.echo("hello");
}
