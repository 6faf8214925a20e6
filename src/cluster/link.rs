//! The connection to the server, and whether the server answers. While it does not, no caller waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::check::{advice, is_refusal};
use super::connect::{CONNECT_MIN, Connection, Connector};
use super::keys::Keys;
use super::log_limit::LogLimit;
use super::time::random_part;
use crate::config::ClusterConfig;
use crate::runtime::clock;

/// The pauses between attempts to connect: each is twice the one before, until a connection has lasted for `PAUSE_MAX`.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(100);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The number of answers in a row that may be late before the connection is given up, if they were awaited for longer than
/// `cluster.timeout` together: one pause of this process makes all answers late that are awaited at that time.
const LATE_MAX: u32 = 3;
/// The interval of log lines about answers that are errors.
const ERRORS_LOGGED: Duration = Duration::from_secs(10);
/// The interval of log lines about a server that is still away.
const OUTAGE_LOGGED: Duration = Duration::from_mins(1);

/// The server does not answer, or not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// Why the server did not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskError {
    /// There is no connection, or it was given up now.
    Away,
    /// There was no answer in time. The server may do it nevertheless.
    Late,
    /// The server answered with an error that will not pass by itself.
    Refused,
}

/// Why a request was not answered, and whether the server has said so.
struct AskFailure {
    error: AskError,
    is_refusal: bool,
}

impl From<AskError> for AskFailure {
    fn from(error: AskError) -> Self {
        Self { error, is_refusal: false }
    }
}

impl From<AskError> for Unavailable {
    fn from(_: AskError) -> Self {
        Self
    }
}

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
    /// The log lines about answers that are errors.
    errors: LogLimit,
    /// The error with which the server answers, if it cannot be used for it.
    refusal: Mutex<Option<String>>,
    outcomes: Outcomes,
}

/// The numbers of requests to the server, by outcome.
#[derive(Debug, Default)]
struct Outcomes {
    answered: AtomicU64,
    late: AtomicU64,
    refused: AtomicU64,
    away: AtomicU64,
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
            errors: LogLimit::new(ERRORS_LOGGED),
            refusal: Mutex::default(),
            outcomes: Outcomes::default(),
        }
    }

    /// Returns the numbers of requests since the start: those that were answered, had no answer in time, were answered with
    /// an error, and could not be sent or lost their connection. An attempt to connect counts if it is answered with an error.
    pub fn outcomes(&self) -> [(&'static str, u64); 4] {
        let Outcomes { answered, late, refused, away } = &self.outcomes;
        [("answered", answered), ("late", late), ("refused", refused), ("away", away)]
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }

    /// Whether the server answers.
    pub fn is_up(&self) -> bool {
        is_up(*self.state.borrow())
    }

    /// Returns the error with which the server answered last, if it cannot be used for it; `None` if it answers properly, or
    /// not at all.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        Ok(self.script_until(script, clock::after(clock::now(), self.config.timeout)).await?)
    }

    /// Runs a script whose answer is awaited until a deadline, for `cluster.timeout` at most.
    ///
    /// # Errors
    /// As [`Link::script`].
    pub async fn script_until<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
        deadline: Instant,
    ) -> Result<T, AskError> {
        let wait = self.config.timeout.min(deadline.saturating_duration_since(clock::now()));
        self.ask(wait, async |mut connection: Connection| script.invoke_async(&mut connection).await).await
    }

    /// Runs commands in one round trip.
    ///
    /// # Errors
    /// As [`Link::script`].
    pub async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Unavailable> {
        let ask = async |mut connection: Connection| commands.query_async(&mut connection).await;
        Ok(self.ask(self.config.timeout, ask).await?)
    }

    /// Runs commands in one round trip, each of which uses one key.
    ///
    /// # Errors
    /// As [`Link::script`]. If the error is [`AskError::Refused`], all commands were answered, and some with an error.
    /// Otherwise some may have been run.
    pub async fn each(&self, commands: &[Cmd]) -> Result<(), AskError> {
        self.ask(self.config.timeout, async |connection: Connection| connection.each(commands).await).await
    }

    /// Waits for an answer, and counts the outcome.
    async fn ask<T>(&self, wait: Duration, ask: impl AsyncFnOnce(Connection) -> RedisResult<T>) -> Result<T, AskError> {
        let answer = self.answer(wait, ask).await;
        let count = match &answer {
            Ok(_) => &self.outcomes.answered,
            Err(AskFailure { is_refusal: true, .. } | AskFailure { error: AskError::Refused, .. }) => {
                &self.outcomes.refused
            }
            Err(AskFailure { error: AskError::Late, .. }) => &self.outcomes.late,
            Err(AskFailure { error: AskError::Away, .. }) => &self.outcomes.away,
        };
        count.fetch_add(1, Ordering::Relaxed);
        answer.map_err(|failure| failure.error)
    }

    /// Waits for an answer.
    async fn answer<T>(
        &self,
        wait: Duration,
        ask: impl AsyncFnOnce(Connection) -> RedisResult<T>,
    ) -> Result<T, AskFailure> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connection = connection.ok_or(AskError::Away)?;
        let generation = *self.state.borrow();
        match timeout(wait, ask(connection)).await {
            Ok(Ok(answer)) => {
                *self.late.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(answer)
            }
            Ok(Err(error)) if !is_late(&error) => {
                Err(AskFailure { error: self.note(&error, generation), is_refusal: is_refusal(&error) })
            }
            // A short wait says nothing about the server.
            Ok(Err(_)) | Err(_) if wait < self.config.timeout / 2 || !self.note_late() => Err(AskError::Late.into()),
            Ok(Err(_)) | Err(_) => {
                self.give_up(generation, &"its answers are late");
                Err(AskError::Away.into())
            }
        }
    }

    /// Counts a late answer. Returns whether there are too many.
    fn note_late(&self) -> bool {
        let (mut late, now) = (self.late.lock().unwrap_or_else(PoisonError::into_inner), clock::now());
        let (count, first) = late.get_or_insert((0, now));
        *count = count.saturating_add(1);
        *count >= LATE_MAX && now.saturating_duration_since(*first) >= self.config.timeout
    }

    /// Gives the connection up if the error is one of the connection, or one of a server that cannot serve now, and logs it
    /// otherwise.
    fn note(&self, error: &RedisError, generation: u64) -> AskError {
        let is_of_connection = error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error();
        if is_of_connection || error.code().is_some_and(is_away) {
            if self.give_up(generation, error) {
                self.set_refusal(Some(error));
            }
            return AskError::Away;
        }
        if let Some(left_out) = self.errors.may_write(clock::now()) {
            let server = &self.config.servers;
            tracing::warn!(%error, %server, left_out, "the cluster's server answers with an error");
        }
        AskError::Refused
    }

    /// Keeps the error for which the server cannot be used, if it is an answer of the server.
    fn set_refusal(&self, error: Option<&RedisError>) {
        let text = error.filter(|error| is_refusal(error)).map(ToString::to_string);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Drops the connection of this generation. Returns whether it was in use.
    fn give_up(&self, generation: u64, reason: &dyn std::fmt::Display) -> bool {
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
        is_first
    }

    /// Opens the connection, and opens it again whenever it is lost. Never returns.
    pub async fn run(&self) {
        let (mut connector, mut pause, lines) = (None, PAUSE_MIN, LogLimit::new(OUTAGE_LOGGED));
        loop {
            match self.open(&mut connector).await {
                Ok(connection) => {
                    *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                    *self.late.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    self.set_refusal(None);
                    self.state.send_modify(|state| *state = state.wrapping_add(1));
                    tracing::info!(server = %self.config.servers, "the cluster's server answers");
                    lines.reset();
                    let opened = clock::now();
                    self.lost.notified().await;
                    if clock::now().saturating_duration_since(opened) >= PAUSE_MAX {
                        pause = PAUSE_MIN;
                    }
                }
                Err(error) => {
                    self.set_refusal(Some(&error));
                    if is_refusal(&error) {
                        self.outcomes.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    if let Some(left_out) = lines.may_write(clock::now()) {
                        let (server, advice) = (&self.config.servers, advice(&self.config, &error));
                        let attempts = left_out.saturating_add(1);
                        tracing::warn!(%error, %server, attempts, advice, "the cluster's server cannot be used");
                    }
                }
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// Opens a connection, and checks that the server accepts a write.
    async fn open(&self, connector: &mut Option<Connector>) -> RedisResult<Connection> {
        let within = self.config.timeout.max(CONNECT_MIN);
        let connector = match connector {
            Some(connector) => connector,
            None => connector.insert(Connector::new(&self.config)?),
        };
        let opening = async {
            let mut connection = connector.connect(within, Some(self.config.timeout)).await?;
            let mut write = redis::cmd("SET");
            write.arg(Keys::new(&self.config.prefix).named("check")).arg(1).arg("PX").arg(1);
            write.query_async::<()>(&mut connection).await?;
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

/// Whether an error has this code because the server cannot serve any node now: by its role or load, or it accepts no writes
/// because its memory or disk is full, or it lacks replicas.
fn is_away(code: &str) -> bool {
    matches!(
        code,
        "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "OOM" | "MISCONF" | "NOREPLICAS"
    )
}

fn is_late(error: &RedisError) -> bool {
    error.is_timeout()
}

/// Returns a random time between half of the pause and the pause, so that nodes do not connect at the same time.
pub(super) fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    half.saturating_add(random_part(half))
}
