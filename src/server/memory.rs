//! Load shedding: new sessions are rejected while the resident memory of the process exceeds `memory_max`.

use std::time::Duration;

use procfs::process::Process;
use tokio::time::sleep;

use crate::front::gateway::Gateway;

/// The time between two readings.
const INTERVAL: Duration = Duration::from_millis(250);
/// Sessions are admitted again below this share of `memory_max`, in percent, so that a few ended sessions do not change
/// the decision back and forth.
const ADMIT_BELOW_PERCENT: u64 = 95;

/// Compares the resident memory with the `memory_max` of the snapshot in use, several times per second. Requests read
/// only the resulting flag. Never returns.
pub async fn watch(gateway: &Gateway) {
    let (mut shedding, mut is_unreadable) = (Shedding::default(), false);
    loop {
        let memory_max = gateway.snapshot().memory_max();
        if memory_max.is_some() || shedding.is_on {
            let resident_bytes = resident_bytes();
            if resident_bytes.is_none() && !is_unreadable {
                tracing::error!("memory_max has no effect: the resident memory cannot be read from /proc/self/statm");
            }
            is_unreadable = resident_bytes.is_none();
            match shedding.update(resident_bytes, memory_max) {
                Some(true) => tracing::warn!(resident_bytes, memory_max, "memory_max exceeded: sessions are rejected"),
                Some(false) => tracing::warn!(resident_bytes, memory_max, "sessions are admitted again"),
                None => {}
            }
            gateway.counters.set_short_of_memory(shedding.is_on);
        }
        sleep(INTERVAL).await;
    }
}

/// Reads the resident memory from `/proc/self`.
fn resident_bytes() -> Option<u64> {
    let statm = Process::myself().ok()?.statm().ok()?;
    Some(statm.resident.saturating_mul(procfs::page_size()))
}

/// Whether new sessions are rejected.
#[derive(Debug, Default)]
struct Shedding {
    is_on: bool,
}

impl Shedding {
    /// Decides by a reading, and returns the decision if it changes. Without a reading or a limit, sessions are
    /// admitted.
    fn update(&mut self, resident_bytes: Option<u64>, memory_max: Option<u64>) -> Option<bool> {
        let is_on = match (resident_bytes, memory_max) {
            (Some(resident), Some(max)) if self.is_on => resident >= percent(max, ADMIT_BELOW_PERCENT),
            (Some(resident), Some(max)) => resident > max,
            _ => false,
        };
        let changes = is_on != self.is_on;
        self.is_on = is_on;
        changes.then_some(is_on)
    }
}

fn percent(value: u64, percent: u64) -> u64 {
    (value / 100).saturating_mul(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_rejected_above_the_limit_and_admitted_below_95_percent_of_it() {
        const OFF: Option<u64> = None;
        // The resident memory, the limit, and the change.
        let (rejects, admits) = (Some(true), Some(false));
        let table = [
            (Some(1000), Some(1000), None),
            (Some(1001), Some(1000), rejects),
            (Some(1500), Some(1000), None),
            (Some(950), Some(1000), None),
            (Some(949), Some(1000), admits),
            (Some(1000), Some(1000), None),
            (Some(2000), Some(1000), rejects),
            // A reload raises the limit, lowers it, and removes it.
            (Some(2000), Some(3000), admits),
            (Some(2000), Some(1000), rejects),
            (Some(2000), OFF, admits),
            (Some(2000), Some(1000), rejects),
            (None, Some(1000), admits),
            (None, Some(1000), None),
        ];
        let mut shedding = Shedding::default();
        for (resident, max, expected) in table {
            assert_eq!(shedding.update(resident, max), expected, "{resident:?} of {max:?}");
        }
    }

    #[test]
    fn the_resident_memory_of_this_process_is_read() {
        // Without the black boxes an optimised build makes no allocation.
        let ballast = std::hint::black_box(vec![1_u8; 64 << 20]);
        let resident = resident_bytes().unwrap();
        std::hint::black_box(&ballast);
        assert!(resident > 64 << 20, "{resident}");
    }
}
