//! The connection to the server, and whether the server answers. While it does not, no caller waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::connect::{CONNECT_MIN, Connection, Connector};
use super::time::random_part;
use crate::config::ClusterConfig;
use crate::runtime::clock;

/// The pauses between attempts to connect: each is twice the one before.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(100);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The number of answers in a row that may be late before the connection is given up, if they were awaited for longer than
/// `cluster.timeout` together: one pause of this process makes all answers late that are awaited at that time.
const LATE_MAX: u32 = 3;

/// The server does not answer, or not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// The connection to the server. It is opened again when it is lost.
#[derive(Debug)]
pub struct Link {
    config: Arc<ClusterConfig>,
    connection: Mutex<Option<Connection>>,
    /// The number of late answers since the last one in time, and when the first was noticed.
    late: Mutex<Option<(u32, Instant)>>,
    lost: Notify,
    /// The number of connections that were opened; odd while there is one.
    state: watch::Sender<u64>,
}

impl Link {
    /// Creates a link without a connection.
    pub fn new(config: Arc<ClusterConfig>) -> Self {
        Self {
            config,
            connection: Mutex::new(None),
            late: Mutex::default(),
            lost: Notify::new(),
            state: watch::Sender::new(0),
        }
    }

    /// Whether the server answers.
    pub fn is_up(&self) -> bool {
        is_up(*self.state.borrow())
    }

    /// Returns the changes between a server that answers and one that does not.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.state.subscribe()
    }

    /// Runs a script.
    ///
    /// # Errors
    /// If the server does not answer in time, or answers with an error, which is logged.
    pub async fn script<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Unavailable> {
        self.ask(async |mut connection: Connection| script.invoke_async(&mut connection).await).await
    }

    /// Runs commands in one round trip.
    ///
    /// # Errors
    /// As [`Link::script`].
    pub async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Unavailable> {
        self.ask(async |mut connection: Connection| commands.query_async(&mut connection).await).await
    }

    /// Runs commands in one round trip, each of which uses one key.
    ///
    /// # Errors
    /// As [`Link::script`]. Some of the commands may have been run then.
    pub async fn each(&self, commands: &[Cmd]) -> Result<(), Unavailable> {
        self.ask(async |connection: Connection| connection.each(commands).await).await
    }

    /// Waits for an answer for `cluster.timeout`.
    async fn ask<T>(&self, ask: impl AsyncFnOnce(Connection) -> RedisResult<T>) -> Result<T, Unavailable> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = connection.ok_or(Unavailable)?;
        let generation = *self.state.borrow();
        match timeout(self.config.timeout, ask(connection)).await {
            Ok(Ok(answer)) => {
                *self.late.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return Ok(answer);
            }
            Ok(Err(error)) if !is_late(&error) => self.note(&error, generation),
            Ok(Err(_)) | Err(_) => {
                if self.note_late() {
                    self.give_up(generation, &"its answers are late");
                }
            }
        }
        Err(Unavailable)
    }

    /// Counts a late answer. Returns whether there are too many.
    fn note_late(&self) -> bool {
        let (mut late, now) = (self.late.lock().unwrap_or_else(PoisonError::into_inner), clock::now());
        let (count, first) = late.get_or_insert((0, now));
        *count = count.saturating_add(1);
        *count >= LATE_MAX && now.saturating_duration_since(*first) >= self.config.timeout
    }

    /// Gives the connection up if the error is one of the connection or of the role of the server, and logs it otherwise.
    fn note(&self, error: &RedisError, generation: u64) {
        let is_of_role =
            matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN"));
        if is_of_role || error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() {
            self.give_up(generation, error);
        } else {
            tracing::warn!(%error, server = %self.config.servers, "the cluster's server answers with an error");
        }
    }

    /// Drops the connection of this generation.
    fn give_up(&self, generation: u64, reason: &dyn std::fmt::Display) {
        let is_first = self.state.send_if_modified(|state| {
            let is_current = *state == generation && is_up(*state);
            if is_current {
                *state = state.wrapping_add(1);
            }
            is_current
        });
        if is_first {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
            tracing::warn!(%reason, server = %self.config.servers, "the cluster's server is away");
            self.lost.notify_one();
        }
    }

    /// Opens the connection, and opens it again whenever it is lost. Never returns.
    pub async fn run(&self) {
        let (mut connector, mut pause, mut is_logged) = (None, PAUSE_MIN, false);
        loop {
            match self.open(&mut connector).await {
                Ok(connection) => {
                    *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                    *self.late.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    self.state.send_modify(|state| *state = state.wrapping_add(1));
                    tracing::info!(server = %self.config.servers, "the cluster's server answers");
                    (pause, is_logged) = (PAUSE_MIN, true);
                    self.lost.notified().await;
                }
                Err(error) if !is_logged => {
                    is_logged = true;
                    tracing::warn!(%error, server = %self.config.servers, "the cluster's server is away");
                }
                Err(error) => tracing::debug!(%error, "the cluster's server is still away"),
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// Opens a connection, and checks that the server answers.
    async fn open(&self, connector: &mut Option<Connector>) -> RedisResult<Connection> {
        let within = self.config.timeout.max(CONNECT_MIN);
        let connector = match connector {
            Some(connector) => connector,
            None => connector.insert(Connector::new(&self.config)?),
        };
        let opening = async {
            let mut connection = connector.connect(within, Some(self.config.timeout)).await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
        timeout(within, opening).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Whether a state is one with a connection.
pub fn is_up(state: u64) -> bool {
    state % 2 == 1
}

fn is_late(error: &RedisError) -> bool {
    error.is_timeout()
}

/// Returns a random time between half of the pause and the pause, so that nodes do not connect at the same time.
pub(super) fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    half.saturating_add(random_part(half))
}
