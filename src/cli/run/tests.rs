//! Tests of `run` as the successor of another process.

use std::fs;
use std::sync::{Arc, Mutex};

use super::*;
use crate::server::passed::PassedState;

/// A process that notes the calls of its successor.
struct Fake(Arc<Mutex<Vec<String>>>);

impl Predecessor for Fake {
    fn fail(&mut self, reason: &str) {
        self.0.lock().unwrap().push(format!("fail: {reason}"));
    }

    fn receive_state(&mut self) -> Result<PassedState, String> {
        self.0.lock().unwrap().push("receive_state".to_owned());
        Ok(PassedState::default())
    }

    fn wait_for_take_over(&mut self, _: &Control) -> Result<(), String> {
        self.0.lock().unwrap().push("wait_for_take_over".to_owned());
        Err("it keeps its sockets".to_owned())
    }

    fn take_sessions(&mut self, _: &Control) -> Result<(), String> {
        unreachable!("it does not take over")
    }

    fn forward_revocations(&mut self, _: &Control) {
        unreachable!("it does not take over")
    }
}

fn run_with(name: &str, text: &str) -> (ExitCode, Vec<String>) {
    let path = std::env::temp_dir().join(format!("tollgate-run-{}-{name}.toml", std::process::id()));
    fs::write(&path, text).unwrap();
    let calls = Arc::<Mutex<Vec<String>>>::default();
    let code = run_after(Some(Box::new(Fake(Arc::clone(&calls)))), &path, Ok(()));
    fs::remove_file(path).unwrap();
    let calls = calls.lock().unwrap().clone();
    (code, calls)
}

#[test]
fn an_invalid_configuration_is_reported_before_anything_is_received() {
    let (code, calls) = run_with("invalid", "unknown = 1\n");
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(EXIT_CONFIG)));
    assert_eq!(calls.len(), 1);
    assert!(calls[0].starts_with("fail: ") && calls[0].contains("unknown"), "{calls:?}");
}
