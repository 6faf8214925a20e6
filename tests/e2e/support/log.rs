//! The log of the child process, read from its standard error while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;

use super::PATIENCE;

/// The lines read so far.
#[derive(Default)]
struct Lines {
    all: Vec<String>,
    /// Whether the stream has ended or is no longer read.
    ended: bool,
    /// The number of lines that [`Log::next`] has consumed.
    passed: usize,
}

/// The log of a child process.
#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<Lines>, Condvar)>);

impl Log {
    /// Reads the stream on a thread of its own, to its end or up to a line that contains `until`. After that line the
    /// stream is closed or, with `keep_open`, left open and unread.
    pub fn read(stderr: impl Read + Send + 'static, until: Option<&'static str>, keep_open: bool) -> Self {
        let log = Self::default();
        let shared = log.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr).lines();
            while let Some(Ok(line)) = lines.next() {
                let last = until.is_some_and(|until| line.contains(until));
                shared.change(|lines| lines.all.push(line));
                if last {
                    break;
                }
            }
            if keep_open && until.is_some() {
                std::mem::forget(lines);
            } else {
                drop(lines);
            }
            shared.change(|lines| lines.ended = true);
        });
        log
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Returns all lines so far.
    pub fn text(&self) -> String {
        self.0.0.lock().unwrap().all.join("\n")
    }

    /// Waits for the next event with this message, after the last event that this function returned.
    pub fn next(&self, message: &str) -> Value {
        let found = |line: &String| parse(line).filter(|event| event["message"] == message);
        let mut event = None;
        let lines = self.0.0.lock().unwrap();
        let (lines, _) = self
            .0
            .1
            .wait_timeout_while(lines, PATIENCE, |lines| {
                while event.is_none() && lines.passed < lines.all.len() {
                    event = found(&lines.all[lines.passed]);
                    lines.passed += 1;
                }
                event.is_none() && !lines.ended
            })
            .unwrap();
        drop(lines);
        event.unwrap_or_else(|| panic!("the log has no further event {message:?}"))
    }

    /// Returns all events with this message so far.
    pub fn all(&self, message: &str) -> Vec<Value> {
        let lines = self.0.0.lock().unwrap();
        lines.all.iter().filter_map(|line| parse(line)).filter(|event| event["message"] == message).collect()
    }

    /// Waits for a line that satisfies `found`, and returns the first one.
    pub fn wait_for(&self, what: &str, found: impl Fn(&str) -> bool) -> String {
        let lines = self.0.0.lock().unwrap();
        let missing = |lines: &mut Lines| !lines.ended && !lines.all.iter().any(|line| found(line));
        let (lines, _) = self.0.1.wait_timeout_while(lines, PATIENCE, missing).unwrap();
        let line = lines.all.iter().find(|line| found(line)).cloned();
        drop(lines);
        line.unwrap_or_else(|| panic!("the log has no line with {what}"))
    }

    /// Returns the number of lines so far that satisfy `found`.
    pub fn count(&self, found: impl Fn(&str) -> bool) -> usize {
        self.0.0.lock().unwrap().all.iter().filter(|line| found(line)).count()
    }

    /// Waits until the lines satisfy `done`.
    pub fn wait_until(&self, what: &str, done: impl Fn(&[String]) -> bool) {
        let lines = self.0.0.lock().unwrap();
        let missing = |lines: &mut Lines| !lines.ended && !done(&lines.all);
        let (lines, _) = self.0.1.wait_timeout_while(lines, PATIENCE, missing).unwrap();
        let done = done(&lines.all);
        drop(lines);
        assert!(done, "the log does not contain {what}");
    }

    /// Waits until the stream has ended or is no longer read. Returns whether it has.
    pub fn wait_for_end(&self) -> bool {
        let lines = self.0.0.lock().unwrap();
        self.0.1.wait_timeout_while(lines, PATIENCE, |lines| !lines.ended).unwrap().0.ended
    }
}

fn parse(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}
