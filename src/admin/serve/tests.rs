//! Tests of `serve`: the sockets of the API while the process is replaced.

use std::path::PathBuf;
use std::thread;

use super::*;
use crate::config::Config;
use crate::server::tests::{Directory, Running, Stream, answer, ask, bind, config, connect, pass, send};

/// A server with its API and a metrics listener.
struct Process {
    admin: Admin,
    server: Running,
}

impl Process {
    fn start(config: &Config, server: crate::server::serve::Server) -> Self {
        let admin = Admin::start(config.admin.as_ref(), config.metrics, server.control(), None).unwrap();
        Self { admin, server: Running::start(server) }
    }
}

fn with_api(directory: &Directory) -> (Config, PathBuf) {
    let path = directory.path("admin.sock");
    let sections = format!(
        "server = {{ drain_timeout = \"1s\" }}\nadmin = {{ address = \"unix:{}\" }}\n\
         metrics = {{ address = \"127.0.0.1:0\" }}",
        path.display()
    );
    (config(&["127.0.0.1:0"], &sections), path)
}

/// Reads the head and the body of a response on a connection that stays open.
fn answer_of_known_length(stream: &mut dyn Stream) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    let mut expected = usize::MAX;
    while text.len() < expected {
        stream.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
        if expected == usize::MAX && text.ends_with("\r\n\r\n") {
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            expected = text.len() + length.parse::<usize>().unwrap();
        }
    }
    text
}

#[tokio::test]
async fn the_api_moves_and_requests_in_progress_are_answered() {
    let directory = Directory::new("admin-moves");
    let (config, path) = with_api(&directory);
    let old = Process::start(&config, bind(config.clone(), None));
    let api = ListenAddress::Unix(path.clone());
    let metrics = ListenAddress::Tcp(old.admin.metrics_address().unwrap());
    // Connections are accepted in their order.
    let (mut early, mut caller) = (connect(&api), connect(&api));
    send(&mut caller, "GET /v1/info", "keep-alive");
    assert!(answer_of_known_length(&mut caller).starts_with("HTTP/1.1 200"));
    let permit = old.server.control.upgrade().await.unwrap();
    let passed = pass(permit.sockets().await.unwrap());
    permit.pause_accepting().await.unwrap();
    let waiting = [ask(&api, "GET /v1/info"), ask(&metrics, "GET /healthz")];
    // The next request of this client is for the new process. The other one has had no answer yet.
    assert_eq!(answer(caller), "");
    send(&mut early, "GET /v1/info", "keep-alive");
    assert!(answer(early).starts_with("HTTP/1.1 200"));
    let new = Process::start(&config, bind(config.clone(), Some(passed)));
    assert_eq!(new.admin.metrics_address(), old.admin.metrics_address());
    for waiting in waiting {
        assert!(answer(waiting).starts_with("HTTP/1.1 200"));
    }
    permit.leave().await.unwrap();
    let control = new.server.control.clone();
    thread::spawn(move || control.complete_handover()).join().unwrap();
    let Process { admin, server } = old;
    server.end();
    drop(admin);
    assert!(path.exists());
    assert!(answer(ask(&api, "GET /v1/info")).starts_with("HTTP/1.1 200"));
    drop(new);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_api_answers_again_after_a_failed_upgrade() {
    let directory = Directory::new("admin-fails");
    let (config, path) = with_api(&directory);
    let old = Process::start(&config, bind(config.clone(), None));
    let permit = old.server.control.upgrade().await.unwrap();
    permit.pause_accepting().await.unwrap();
    let server = bind(config.clone(), Some(pass(permit.sockets().await.unwrap())));
    // Neither accepts: the new process has to wait until it takes over.
    let admin = Admin::start(config.admin.as_ref(), config.metrics, server.control(), None).unwrap();
    let waiting = ask(&ListenAddress::Unix(path.clone()), "GET /v1/info");
    drop((admin, server));
    assert!(path.exists());
    drop(permit);
    assert!(answer(waiting).starts_with("HTTP/1.1 200"));
    drop(old);
    assert!(!path.exists());
}

#[tokio::test]
async fn changes_wait_for_the_end_of_an_upgrade() {
    let directory = Directory::new("admin-changes");
    let (config, path) = with_api(&directory);
    let process = Process::start(&config, bind(config.clone(), None));
    let api = ListenAddress::Unix(path);
    let permit = process.server.control.upgrade().await.unwrap();
    for (request, status) in [
        ("DELETE /v1/sessions/00000000000000000000000000000000", 503),
        ("DELETE /v1/revocations/00000000000000000000000000000000", 503),
        ("POST /v1/sessions/close", 503),
        ("PUT /v1/log-level", 503),
        ("PATCH /v1/upstreams/a/servers/127.0.0.1%3A9", 503),
        ("POST /v1/reload", 409),
        ("GET /v1/info", 200),
    ] {
        let answer = answer(ask(&api, request));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert_eq!(answer.contains("retry-after: 1\r\n"), status == 503, "{request}: {answer}");
    }
    drop(permit);
    // The permit ends before the next request of the control loop is executed.
    assert!(answer(ask(&api, "POST /v1/reload")).contains("this process has no configuration file"));
    assert!(answer(ask(&api, "DELETE /v1/sessions/00000000000000000000000000000000")).starts_with("HTTP/1.1 404"));
}
