//! The sessions of one server that end soon after their begin, because the server disconnects.

use std::time::Duration;

/// The time after its 101 within which a session has ended early. The server accepted it, but does not serve it.
pub const EARLY: Duration = Duration::from_secs(1);
/// The time that sessions have ended early, without one that did not, before they eject their server. A client may
/// provoke such ends, by a message at which the server disconnects: they count if no session of another client that
/// began in this time outlives [`EARLY`].
pub const EARLY_RUN_MIN: Duration = Duration::from_secs(2);

/// A run of sessions that ended early: of the sessions that began since the first of them, none has outlived a second
/// or two.
///
/// Sessions are counted by the second in which they began, and not one by one. So a session may count as one that has
/// outlived [`EARLY`] up to a second late.
#[derive(Debug, Default)]
pub(super) struct EarlyEnds {
    count: u32,
    /// The time of the first one.
    since_ms: u64,
    /// The last second that is counted.
    second: u64,
    /// The sessions that began in that second and have not ended early, and those of the second before.
    open: [u32; 2],
}

impl EarlyEnds {
    /// Returns the number of sessions that have ended early in this run.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether the run lasts as long as it must to eject the server.
    pub(super) fn lasts(&self, now_ms: u64) -> bool {
        self.count > 0 && Duration::from_millis(now_ms.saturating_sub(self.since_ms)) >= EARLY_RUN_MIN
    }

    /// Records that a session begins. One that begins before the run is not counted as open.
    pub(super) fn opened(&mut self, now_ms: u64) {
        self.pass(now_ms);
        if self.count > 0 && now_ms >= self.since_ms {
            let [current, _] = &mut self.open;
            *current = current.saturating_add(1);
        }
    }

    /// Records that a session ended early, which counted as open if it began in the run.
    pub(super) fn ended(&mut self, opened_ms: u64, now_ms: u64) {
        self.pass(now_ms);
        if self.count == 0 {
            *self = Self { count: 0, since_ms: now_ms, second: second(now_ms), open: [0; 2] };
        } else if opened_ms >= self.since_ms {
            let [current, before] = &mut self.open;
            let began_in = if second(opened_ms) == self.second { current } else { before };
            *began_in = began_in.saturating_sub(1);
        }
        self.count = self.count.saturating_add(1);
    }

    /// Moves the time forward. The run ends if a session has outlived [`EARLY`].
    pub(super) fn pass(&mut self, now_ms: u64) {
        let now = second(now_ms);
        if self.count == 0 || now <= self.second {
            return;
        }
        let [current, before] = self.open;
        let has_survivor = before > 0 || (current > 0 && now > self.second.saturating_add(1));
        self.open = [0, if now == self.second.saturating_add(1) { current } else { 0 }];
        self.second = now;
        if has_survivor {
            *self = Self::default();
        }
    }
}

fn second(ms: u64) -> u64 {
    ms / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Opens(u64),
        /// A session that began at the first time ends at the second one.
        Ends(u64, u64),
        /// The length of the run, and whether it lasts long enough.
        Is(u64, u32, bool),
    }

    #[test]
    fn a_run_of_early_ends_lasts_until_a_session_outlives_them() {
        use Step::{Ends, Is, Opens};
        let tables: &[&[Step]] = &[
            // Nothing is counted before the first end.
            &[Opens(0), Opens(10), Is(5_000, 0, false)],
            // Each session ends at once, many in a second or few in a minute.
            &[
                Ends(0, 5),
                Opens(10),
                Ends(10, 20),
                Opens(1_990),
                Ends(1_990, 2_000),
                Is(2_004, 3, false),
                Is(2_005, 3, true),
            ],
            &[
                Ends(0, 5),
                Opens(60_000),
                Ends(60_000, 60_500),
                Opens(120_000),
                Ends(120_000, 120_999),
                Is(121_000, 3, true),
            ],
            // Sessions that began before the run end with it.
            &[Ends(900, 1_000), Ends(900, 1_000), Ends(500, 1_001), Is(1_001, 3, false), Is(9_000, 3, true)],
            // A session outlives the second in which it began and the next one.
            &[Ends(0, 5), Opens(100), Opens(200), Ends(200, 900), Is(1_900, 2, false), Is(2_000, 0, false)],
            &[Ends(0, 5), Opens(1_900), Is(2_999, 1, true), Is(3_000, 0, false)],
            &[Ends(0, 5), Opens(100), Is(60_000, 0, false)],
            // One that ends in the second after that of its begin.
            &[Ends(0, 5), Opens(900), Ends(900, 1_800), Is(3_000, 2, true)],
            // A new run begins with the next end.
            &[Ends(0, 5), Opens(100), Ends(4_000, 4_500), Is(4_500, 1, false), Is(6_500, 1, true)],
            // Another thread read the clock later.
            &[Ends(0, 2_005), Opens(1_999), Ends(1_999, 2_004), Is(3_999, 2, false), Is(4_005, 2, true)],
        ];
        for (number, table) in tables.iter().enumerate() {
            let mut early = EarlyEnds::default();
            for (step, event) in table.iter().enumerate() {
                match event {
                    Opens(now) => early.opened(*now),
                    Ends(opened, now) => early.ended(*opened, *now),
                    Is(now, count, lasts) => {
                        early.pass(*now);
                        assert_eq!((early.count(), early.lasts(*now)), (*count, *lasts), "table {number}, step {step}");
                    }
                }
            }
        }
    }
}
