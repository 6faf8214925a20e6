//! Reads the figures of the process that the kernel keeps.

use procfs::process::Process;

/// The figures of the process. A figure that the kernel does not provide is absent.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct ProcessFigures {
    /// The CPU time of all its threads, user and system, in seconds.
    pub cpu_seconds: Option<f64>,
    /// The resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// The number of open descriptors.
    pub open_fds: Option<u64>,
    /// The limit on open descriptors.
    pub max_fds: Option<u64>,
}

impl ProcessFigures {
    /// Reads the figures from `/proc/self`, which systemd's `ProcSubset=pid` leaves readable. This blocks the thread,
    /// and takes longer the more descriptors are open.
    pub fn read() -> Self {
        let open_fds = Process::myself().and_then(|process| process.fd_count()).ok();
        Self {
            open_fds: open_fds.and_then(|count| u64::try_from(count).ok()),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            ..Self::read_without_descriptors()
        }
    }

    /// Reads the figures except those of descriptors, in a time that does not depend on the load.
    pub fn read_without_descriptors() -> Self {
        let Ok(process) = Process::myself() else { return Self::default() };
        let stat = process.stat().ok();
        #[expect(clippy::cast_precision_loss, reason = "exact for more than a million years of ticks")]
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        Self {
            cpu_seconds: stat.as_ref().map(|stat| seconds(stat.utime.saturating_add(stat.stime))),
            resident_bytes: stat.as_ref().map(|stat| stat.rss.saturating_mul(procfs::page_size())),
            open_fds: None,
            max_fds: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_figures_of_this_process_are_read() {
        let figures = ProcessFigures::read();
        assert!(figures.cpu_seconds.is_some_and(|seconds| (0.0..1e6).contains(&seconds)), "{figures:?}");
        assert!(figures.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{figures:?}");
        assert!(figures.open_fds.is_some_and(|fds| fds >= 3), "{figures:?}");
        assert!(figures.max_fds >= figures.open_fds, "{figures:?}");
    }
}
