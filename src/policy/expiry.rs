//! The effect of the expiry of its token on an open session.

use std::time::{Duration, Instant};

use crate::ws::code::CloseCode;

/// The effect of the expiry of a token on the session that it admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpiry {
    /// The session ends.
    Close {
        /// How long it continues after `exp` and the leeway.
        grace: Duration,
        /// The code of the Close to both sides.
        code: CloseCode,
    },
    /// The session continues.
    Ignore,
}

/// The end of a session because its token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The deadline.
    pub at: Instant,
    /// The code of the Close to both sides.
    pub code: CloseCode,
}

impl OnExpiry {
    /// Returns when the session of a token ends, and the code of its Close. `expires` is the `exp` of the token. The
    /// times are counted from the Unix epoch. `None` if its session outlives it.
    pub fn end(self, expires: Duration, leeway: Duration) -> Option<(Duration, CloseCode)> {
        match self {
            Self::Close { grace, code } => Some((expires.saturating_add(leeway).saturating_add(grace), code)),
            Self::Ignore => None,
        }
    }
}

impl Default for OnExpiry {
    /// Closes without grace, with 1008.
    fn default() -> Self {
        Self::Close { grace: Duration::ZERO, code: CloseCode::POLICY_VIOLATION }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_after_leeway_and_grace() {
        let seconds = Duration::from_secs;
        let close = |grace| OnExpiry::Close { grace: seconds(grace), code: CloseCode(4001) };
        let table = [
            (close(0), 100, 0, Some(100)),
            (close(0), 100, 30, Some(130)),
            (close(60), 100, 30, Some(190)),
            (close(60), u64::MAX, 30, Some(u64::MAX)),
            (OnExpiry::Ignore, 100, 30, None),
        ];
        for (on_expiry, expires, leeway, expected) in table {
            let end = on_expiry.end(seconds(expires), seconds(leeway));
            assert_eq!(end.map(|(at, _)| at.as_secs()), expected, "{on_expiry:?}, {expires}");
            assert!(end.is_none_or(|(_, code)| code == CloseCode(4001)));
        }
        assert_eq!(OnExpiry::default().end(seconds(1), seconds(2)), Some((seconds(3), CloseCode(1008))));
    }
}
