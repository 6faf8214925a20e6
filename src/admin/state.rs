//! The state that all requests share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::page::Page;
use crate::handover::upgrader::Upgrader;
use crate::server::control::Control;
use crate::telemetry::history::History;

/// The number of concurrent taps. Each one makes a session copy headers or payloads of its frames.
pub(super) const WATCHERS_MAX: usize = 16;

/// The last reload of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastReload {
    /// The time, since the Unix epoch. `None`: the clock cannot be right.
    pub(super) unix: Option<Duration>,
    /// The first error, if it failed.
    pub(super) error: Option<String>,
}

/// The state that all requests share.
#[derive(Debug)]
pub(super) struct State {
    /// The running process.
    pub(super) control: Control,
    /// Replaces the process; `None`: that is not possible.
    pub(super) upgrader: Option<Upgrader>,
    /// The last reload.
    pub(super) last_reload: Arc<Mutex<Option<LastReload>>>,
    /// Whether taps may show payloads.
    pub(super) payload: bool,
    /// One permit for each tap.
    pub(super) watchers: Arc<Semaphore>,
    /// Cancelled when the API ends.
    pub(super) stop: CancellationToken,
    /// The figures of the last hour.
    pub(super) history: Arc<Mutex<History>>,
    /// The dashboard.
    pub(super) page: Page,
    /// The OpenAPI document.
    pub(super) openapi: Bytes,
}

/// The shared state, as handlers get it.
pub(super) type Shared = axum::extract::State<Arc<State>>;

impl State {
    /// Creates the state. The OpenAPI document is filled in with the router.
    pub(super) fn new(control: Control, payload: bool, stop: CancellationToken) -> Self {
        let watchers = Arc::new(Semaphore::new(WATCHERS_MAX));
        Self {
            control,
            upgrader: None,
            last_reload: Arc::default(),
            payload,
            watchers,
            stop,
            history: Arc::default(),
            page: Page::new(),
            openapi: Bytes::new(),
        }
    }
}
