//! Counts what limits would have done, where they are only reported.

use super::Session;
use super::metering::{NewReport, Reports};
use super::outcome::CloseReason;
use super::side::Side;
use crate::policy::limits::LimitKind;
use crate::ws::frame::Header;

impl Session {
    /// Applies a limit that is exceeded: ends the session for this reason, or counts that it would have ended.
    #[cold]
    #[inline(never)]
    pub(super) fn exceed(&mut self, kind: LimitKind, cause: CloseReason) -> Result<(), CloseReason> {
        if self.is_reporting {
            self.report(kind);
            Ok(())
        } else {
            Err(cause)
        }
    }

    /// Counts that a limit would have acted.
    #[cold]
    pub(super) fn report(&mut self, kind: LimitKind) {
        let reports = self.metering.get_or_insert_default().reports.get_or_insert_default();
        if let Some(count) = reports.counts.get_mut(kind as usize) {
            *count = count.saturating_add(1);
        }
        self.has_new_reports = true;
    }

    /// Counts the numbers of sessions that the upgrade of this one has exceeded.
    pub fn report_upgrade(&mut self, exceeded: &[LimitKind]) {
        for kind in exceeded {
            self.report(*kind);
        }
    }

    /// Counts the sizes that a data frame exceeds. To be called before the inspector begins the frame.
    pub(super) fn report_sizes(&mut self, from: Side, header: &Header) {
        let before = self.peer(from).inspector.message_bytes();
        let after = before.saturating_add(header.payload_len);
        let exceeds = |max_bytes: u64| before <= max_bytes && after > max_bytes;
        // By default the largest frame is the largest message. Then the limit that is reported is that of the message.
        let has_frame_limit = self.limits.frame_max_bytes < self.limits.message_max_bytes;
        match from {
            Side::Client if has_frame_limit && header.payload_len > self.limits.frame_max_bytes => {
                self.report(LimitKind::FrameMaxSize);
            }
            Side::Client if exceeds(self.limits.message_max_bytes) => self.report(LimitKind::MessageMaxSize),
            Side::Upstream if self.limits.upstream_message_max_bytes.is_some_and(exceeds) => {
                self.report(LimitKind::UpstreamMessageMaxSize);
            }
            _ => {}
        }
    }

    /// Counts that the session would have ended because it is idle, once for each time without data.
    pub(super) fn report_idle(&mut self) {
        self.report(LimitKind::IdleTimeout);
        let since = self.data_passed;
        if let Some(reports) = self.metering.as_mut().and_then(|metering| metering.reports.as_mut()) {
            reports.idle_since = Some(since);
        }
    }

    fn reports(&self) -> Option<&Reports> {
        self.metering.as_ref()?.reports.as_ref()
    }

    /// Whether a limit would have acted on this session.
    pub(super) fn has_reported(&self, kind: LimitKind) -> bool {
        self.reports().and_then(|reports| reports.counts.get(kind as usize)).is_some_and(|count| *count > 0)
    }

    /// Whether the time without data was reported.
    pub(super) fn is_idle_reported(&self) -> bool {
        self.reports().is_some_and(|reports| reports.idle_since == Some(self.data_passed))
    }

    /// Whether [`Session::take_reports`] has any. It is called after every poll, so it only reads a flag.
    #[inline]
    pub fn has_new_reports(&self) -> bool {
        self.has_new_reports
    }

    /// Returns the limits that would have acted since the last call.
    pub fn take_reports(&mut self) -> Vec<NewReport> {
        self.has_new_reports = false;
        let Some(reports) = self.metering.as_mut().and_then(|metering| metering.reports.as_mut()) else {
            return Vec::new();
        };
        let counts = reports.counts.iter().zip(&mut reports.taken);
        let new = LimitKind::ALL.into_iter().zip(counts).filter_map(|(kind, (count, taken))| {
            let before = std::mem::replace(taken, *count);
            let new = count.saturating_sub(before);
            (new > 0).then_some(NewReport { kind, count: new, is_first: before == 0 })
        });
        new.collect()
    }

    /// Returns the limits that would have acted, and how often.
    pub fn reported(&self) -> impl Iterator<Item = (LimitKind, u64)> {
        let counts = self.reports().map(|reports| reports.counts).unwrap_or_default();
        LimitKind::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }
}
