//! The state that all requests share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::runtime::clock;
use crate::server::control::Control;

/// The number of concurrent taps. Each one makes a session copy headers or payloads of its frames.
pub(super) const WATCHERS_MAX: usize = 16;

/// Facts about the process that do not change, for `/v1/info`.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The path of the configuration.
    pub config: PathBuf,
    /// The number of workers.
    pub workers: usize,
    /// The addresses of the listeners at the start.
    pub listeners: Vec<String>,
}

/// The state that all requests share.
#[derive(Debug)]
pub(super) struct State {
    /// The running process.
    pub(super) control: Control,
    /// Facts about it.
    pub(super) facts: Facts,
    /// The origin of time differences in cursors.
    pub(super) epoch: Instant,
    /// The wall clock at `epoch`, as time since the Unix epoch. `None`: the clock cannot be right.
    pub(super) started: Option<Duration>,
    /// Whether taps may show payloads.
    pub(super) payload: bool,
    /// One permit for each tap.
    pub(super) watchers: Arc<Semaphore>,
    /// Cancelled when the API ends.
    pub(super) stop: CancellationToken,
    /// The OpenAPI document.
    pub(super) openapi: Bytes,
}

/// The shared state, as handlers get it.
pub(super) type Shared = axum::extract::State<Arc<State>>;

impl State {
    /// Creates the state. The OpenAPI document is filled in with the router.
    pub(super) fn new(control: Control, facts: Facts, payload: bool, stop: CancellationToken) -> Self {
        Self {
            control,
            facts,
            epoch: clock::now(),
            started: clock::unix(),
            payload,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
            stop,
            openapi: Bytes::new(),
        }
    }
}
