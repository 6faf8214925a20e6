//! The settings that an operator gave a server of a running process: they override those of the configuration until it
//! changes them.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::config::ServerConfig;

/// The state that an operator gives a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperatorState {
    /// It gets sessions, even if the configuration drains it.
    Ready,
    /// It gets no new sessions, and the open ones are closed at the drain rate.
    Drain,
    /// It gets no new sessions, and the open ones are closed within seconds.
    Down,
}

impl OperatorState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Down];

    /// Returns its name in the admin API.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }
}

/// A change of the settings of a server by an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerChange {
    /// Its state; `None` leaves it.
    pub state: Option<OperatorState>,
    /// Its weight; `None` leaves it.
    pub weight: Option<NonZeroU16>,
}

/// The settings of a server that are in force, in one number: bit 0 whether it gets no new sessions, bit 1 whether it is
/// down, and its weight above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings(pub(super) u32);

impl Settings {
    /// Combines a configuration with the overrides.
    pub(super) fn new(config: &ServerConfig, overrides: &Overrides) -> Self {
        let state = overrides.state();
        let drains = state.map_or(config.drain, |state| state != OperatorState::Ready);
        let is_down = state == Some(OperatorState::Down);
        let weight = overrides.weight().unwrap_or(config.weight);
        Self(u32::from(weight.get()) << 2 | u32::from(is_down) << 1 | u32::from(drains))
    }

    pub(super) fn drains(self) -> bool {
        self.0 & 1 != 0
    }

    pub(super) fn is_down(self) -> bool {
        self.0 & 2 != 0
    }

    pub(super) fn weight(self) -> u32 {
        self.0 >> 2
    }
}

/// The settings that an operator overrides, each with the value of the configuration at that time. 0 is no setting;
/// otherwise bits 0 and 1 are the state, bit 2 is the `drain` of the configuration, bits 16 to 31 are the weight, and
/// bits 32 to 47 that of the configuration.
#[derive(Debug, Default)]
pub(super) struct Overrides(AtomicU64);

const STATE: u64 = 0b11;
const STATE_AND_BASE: u64 = 0b111;
const WEIGHT_AND_BASE: u64 = 0xffff_ffff_0000;

impl Overrides {
    /// Returns the state, if it is overridden.
    pub(super) fn state(&self) -> Option<OperatorState> {
        match self.0.load(Ordering::Relaxed) & STATE {
            1 => Some(OperatorState::Ready),
            2 => Some(OperatorState::Drain),
            3 => Some(OperatorState::Down),
            _ => None,
        }
    }

    /// Returns the weight, if it is overridden.
    pub(super) fn weight(&self) -> Option<NonZeroU16> {
        u16::try_from(self.0.load(Ordering::Relaxed) >> 16 & 0xffff).ok().and_then(NonZeroU16::new)
    }

    /// Makes a change. A value that the configuration has anyway ends the override.
    pub(super) fn change(&self, change: ServerChange, config: &ServerConfig) {
        self.update(|mut bits| {
            if let Some(state) = change.state {
                let number = match state {
                    OperatorState::Ready if !config.drain => 0,
                    OperatorState::Ready => 1,
                    OperatorState::Drain => 2,
                    OperatorState::Down => 3,
                };
                let base = u64::from(config.drain && number != 0) << 2;
                bits = bits & !STATE_AND_BASE | number | base;
            }
            if let Some(weight) = change.weight {
                let (own, base) = (u64::from(weight.get()), u64::from(config.weight.get()));
                let both = if own == base { 0 } else { base << 32 | own << 16 };
                bits = bits & !WEIGHT_AND_BASE | both;
            }
            bits
        });
    }

    /// Ends the overrides of values that the configuration has changed since they were made.
    pub(super) fn end_outdated(&self, config: &ServerConfig) {
        self.update(|mut bits| {
            if bits & STATE != 0 && (bits >> 2 & 1 != 0) != config.drain {
                bits &= !STATE_AND_BASE;
            }
            if bits & WEIGHT_AND_BASE != 0 && bits >> 32 & 0xffff != u64::from(config.weight.get()) {
                bits &= !WEIGHT_AND_BASE;
            }
            bits
        });
    }

    /// Ends all overrides.
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn update(&self, change: impl Fn(u64) -> u64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| Some(change(bits)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::server;
    use super::*;

    fn config(weight: u16, drain: bool) -> ServerConfig {
        ServerConfig { weight: weight.try_into().unwrap(), drain, ..server(1) }
    }

    fn in_force(config: &ServerConfig, overrides: &Overrides) -> (bool, bool, u32) {
        let settings = Settings::new(config, overrides);
        (settings.drains(), settings.is_down(), settings.weight())
    }

    #[test]
    fn an_operator_overrides_the_state_and_the_weight() {
        let state = |state| ServerChange { state: Some(state), weight: None };
        let weight = |weight: u16| ServerChange { state: None, weight: weight.try_into().ok() };
        for (drain, change, expected) in [
            (false, ServerChange::default(), (false, false, 7)),
            (true, ServerChange::default(), (true, false, 7)),
            (false, state(OperatorState::Ready), (false, false, 7)),
            (true, state(OperatorState::Ready), (false, false, 7)),
            (false, state(OperatorState::Drain), (true, false, 7)),
            (true, state(OperatorState::Drain), (true, false, 7)),
            (false, state(OperatorState::Down), (true, true, 7)),
            (true, state(OperatorState::Down), (true, true, 7)),
            (false, weight(1000), (false, false, 1000)),
            (true, weight(1), (true, false, 1)),
        ] {
            let (config, overrides) = (config(7, drain), Overrides::default());
            overrides.change(change, &config);
            assert_eq!(in_force(&config, &overrides), expected, "{drain} {change:?}");
            overrides.change(ServerChange::default(), &config);
            overrides.end_outdated(&config);
            assert_eq!(in_force(&config, &overrides), expected, "an unchanged configuration keeps {change:?}");
        }
    }

    #[test]
    fn a_state_and_a_weight_are_changed_and_ended_apart() {
        let (own, overrides) = (config(7, false), Overrides::default());
        let both = ServerChange { state: Some(OperatorState::Down), weight: 9.try_into().ok() };
        overrides.change(both, &own);
        assert_eq!(in_force(&own, &overrides), (true, true, 9));
        overrides.change(ServerChange { state: Some(OperatorState::Ready), weight: None }, &own);
        assert_eq!((in_force(&own, &overrides), overrides.state()), ((false, false, 9), None));
        overrides.change(both, &own);
        overrides.change(ServerChange { state: None, weight: 7.try_into().ok() }, &own);
        assert_eq!((in_force(&own, &overrides), overrides.weight()), ((true, true, 7), None));

        overrides.change(both, &own);
        overrides.end_outdated(&config(8, false));
        assert_eq!(in_force(&config(8, false), &overrides), (true, true, 8));
        overrides.change(both, &own);
        overrides.end_outdated(&config(7, true));
        assert_eq!(in_force(&config(7, true), &overrides), (true, false, 9));
        overrides.end();
        assert_eq!((overrides.state(), overrides.weight()), (None, None));
    }

    /// A value that changes and changes back does not bring an override back.
    #[test]
    fn an_ended_override_does_not_return() {
        let (own, overrides) = (config(7, true), Overrides::default());
        overrides.change(ServerChange { state: Some(OperatorState::Ready), weight: 9.try_into().ok() }, &own);
        overrides.end_outdated(&config(1, false));
        overrides.end_outdated(&own);
        assert_eq!(in_force(&own, &overrides), (true, false, 7));
    }
}
