//! The control of a running process: its sessions, and reload. (Stub.)

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;

use super::error::ServeError;
use crate::config;
use crate::front::gateway::Gateway;
use crate::policy::limits::Limits;
use crate::relay::registry::SessionActivity;
use crate::session::SessionStats;
use crate::telemetry::request::RequestId;
use crate::ws::code::CloseCode;
use crate::ws::frame::{Message, Opcode};

#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Control {
    gateway: Arc<Gateway>,
}

#[allow(missing_docs, unused_variables, clippy::unused_async, clippy::missing_errors_doc)]
impl Control {
    pub fn new(gateway: Arc<Gateway>) -> Self {
        Self { gateway }
    }
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }
    pub async fn sessions(&self) -> Vec<SessionEntry> {
        Vec::new()
    }
    pub async fn describe(&self, ids: &[RequestId]) -> Vec<SessionInfo> {
        Vec::new()
    }
    pub async fn close(&self, ids: Vec<RequestId>, code: CloseCode, reason: &str, spread: Duration) {}
    pub async fn send(&self, ids: Vec<RequestId>, message: Message) {}
    pub async fn watch(&self, id: RequestId, payload: bool) -> Option<Watch> {
        None
    }
    pub async fn reload(&self, options: ReloadOptions) -> Result<ReloadSummary, ReloadError> {
        Err(ReloadError::Stopping)
    }
}

#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SessionEntry {
    pub id: RequestId,
    pub route: Arc<str>,
    pub auth: Option<Arc<str>>,
    pub subject: Option<Arc<str>>,
    pub address: IpAddr,
    pub upstream: Arc<str>,
    pub server: Arc<str>,
    pub host: Option<Box<str>>,
    pub path: Option<Box<str>>,
    pub origin: Option<Box<str>>,
    pub tls_version: &'static str,
    pub cipher: &'static str,
    pub started: Instant,
}

#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct SessionInfo {
    pub id: RequestId,
    pub age: Duration,
    pub activity: SessionActivity,
    pub stats: SessionStats,
    pub rates: Rates,
    pub last_activity: Duration,
    pub limits: Arc<Limits>,
    pub buffered_in: usize,
    pub buffered_out: usize,
    pub next_deadline: Option<(Duration, &'static str)>,
}

#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Rates {
    pub messages_in: f64,
    pub bytes_in: f64,
    pub messages_out: f64,
    pub bytes_out: f64,
}

#[derive(Debug)]
#[allow(missing_docs)]
pub struct Watch;

#[allow(missing_docs, clippy::unused_async)]
impl Watch {
    pub async fn next(&mut self) -> Option<WatchEvent> {
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    In,
    Out,
}

#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum WatchEvent {
    Frame {
        direction: Direction,
        opcode: Opcode,
        fin: bool,
        compressed: bool,
        length: u64,
        payload: Option<Bytes>,
        at: Duration,
    },
    Missed(u64),
}

#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct ReloadOptions {
    pub dry_run: bool,
    pub force: bool,
}

#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct ReloadSummary {
    pub generation: u64,
    pub kept: usize,
    pub changed: usize,
    pub ended: Vec<(&'static str, usize)>,
    pub warnings: Vec<String>,
    pub listeners_added: Vec<String>,
    pub listeners_removed: Vec<String>,
    pub applied: bool,
}

#[derive(Debug)]
#[allow(missing_docs)]
pub enum ReloadError {
    Invalid(config::Report),
    TooMany { summary: ReloadSummary, max_percent: u8 },
    Server(ServeError),
    Stopping,
}
