//! The watchdog: decides when the process reports that it is alive, from the heartbeats of its workers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::runtime::clock;

/// The number of times in an interval of the watchdog that the workers are asked for a heartbeat.
const ASKS: u32 = 8;
/// The shortest pause between two of these times.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The heartbeat of a worker. Only its own runtime answers, and only while no task blocks its thread.
#[derive(Debug, Default)]
pub struct Heartbeat {
    asked: Notify,
    /// The number of answers, modulo 2^32.
    answers: AtomicU32,
}

impl Heartbeat {
    /// Answers on the worker's runtime. Never returns.
    pub async fn answer(&self) {
        loop {
            self.asked.notified().await;
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks for an answer, and returns the number of earlier answers.
    pub fn ask(&self) -> u32 {
        self.asked.notify_one();
        self.answers.load(Ordering::Relaxed)
    }
}

/// Calls `report` once per half of the interval while every worker answers. `ask` asks all workers, and returns the
/// numbers of their answers. A worker that does not answer in time only delays the report until it does. Without an
/// interval there is no report. Never returns.
pub async fn watch(interval: Option<Duration>, ask: impl Fn() -> Vec<u32>, report: impl Fn()) {
    let Some(interval) = interval else { return std::future::pending().await };
    let pause = (interval / ASKS).max(PAUSE_MIN);
    let mut watchdog = Watchdog::new(interval, ask(), clock::now());
    loop {
        sleep(pause).await;
        if watchdog.is_due(ask(), clock::now()) {
            report();
        }
    }
}

/// The state of the watchdog at its last report.
#[derive(Debug)]
struct Watchdog {
    interval: Duration,
    reported: Instant,
    answers: Vec<u32>,
}

impl Watchdog {
    /// Creates the state of a process that has just reported.
    fn new(interval: Duration, answers: Vec<u32>, now: Instant) -> Self {
        Self { interval, reported: now, answers }
    }

    /// Whether to report now: half of the interval has passed, and every worker has answered since the last report.
    fn is_due(&mut self, answers: Vec<u32>, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.reported) >= self.interval / 2;
        let is_due = passed && self.answers.iter().zip(&answers).all(|(before, now)| before != now);
        if is_due {
            self.reported = now;
            self.answers = answers;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    #[test]
    fn a_report_is_due_after_half_the_interval_if_every_worker_answered() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(Duration::from_secs(30), vec![0, u32::MAX], start);
        // The seconds since the start, the answers of both workers, and whether a report is due.
        for (seconds, answers, expected) in [
            (14, [5, 5], false),
            (15, [6, 6], true),
            (29, [7, 7], false),
            // The second worker has not answered since the last report.
            (30, [8, 6], false),
            (44, [9, 6], false),
            // It was late, so the report follows at once.
            (45, [9, 7], true),
            (59, [10, 8], false),
            (60, [10, 8], true),
            // None has answered since.
            (90, [10, 8], false),
            (900, [10, 8], false),
            // The number of answers starts again at zero.
            (901, [0, 0], true),
        ] {
            let due = watchdog.is_due(answers.into(), start + Duration::from_secs(seconds));
            assert_eq!(due, expected, "{answers:?} after {seconds} s");
        }
    }

    /// The thread of one worker is blocked until the test releases it.
    #[test]
    fn a_worker_whose_thread_is_blocked_stops_the_reports() {
        const INTERVAL: Duration = Duration::from_millis(80);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let beats = [Arc::<Heartbeat>::default(), Arc::default()];
        let (block, blocked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (release, released) = mpsc::sync_channel::<()>(1);
        let end = Arc::new(Notify::new());
        let (beat, ended) = (Arc::clone(&beats[0]), Arc::clone(&end));
        let live = thread::spawn(move || {
            runtime().block_on(async {
                tokio::select! { () = beat.answer() => {} () = ended.notified() => {} }
            });
        });
        let (beat, asked, is_blocked) = (Arc::clone(&beats[1]), Arc::clone(&block), Arc::clone(&blocked));
        let stuck = thread::spawn(move || {
            runtime().block_on(async {
                let sticking = async {
                    asked.notified().await;
                    is_blocked.notify_one();
                    released.recv().unwrap();
                    asked.notified().await;
                };
                tokio::select! { () = beat.answer() => {} () = sticking => {} }
            });
        });
        let (report, mut reports) = tokio::sync::mpsc::channel(64);
        runtime().block_on(async {
            let watching = watch(
                Some(INTERVAL),
                || beats.iter().map(|beat| beat.ask()).collect(),
                || {
                    report.try_send(()).unwrap();
                },
            );
            let checking = async {
                for _ in 0..3 {
                    reports.recv().await;
                }
                block.notify_one();
                blocked.notified().await;
                // Reports from before the block, and one that rests on answers from before it.
                while reports.try_recv().is_ok() {}
                let _ = tokio::time::timeout(INTERVAL, reports.recv()).await;
                assert!(
                    tokio::time::timeout(INTERVAL * 3, reports.recv()).await.is_err(),
                    "a report despite the block"
                );
                release.send(()).unwrap();
                reports.recv().await;
            };
            tokio::select! { () = watching => {} () = checking => {} }
        });
        block.notify_one();
        end.notify_one();
        live.join().unwrap();
        stuck.join().unwrap();
    }
}
