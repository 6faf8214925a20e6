//! `GET /v1/auths`: the `[auth]` sections that routes use, with the state of their keys and services.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::settings::{WrittenSetting, line, written};
use super::state::Shared;
use super::view::seconds;
use crate::config::{SettingLines, SettingSection};
use crate::policy::forward::AuthOutcome;
use crate::policy::live_keys::KeySource;
use crate::policy::route::{AuthKind, AuthMethod};
use crate::policy::token::Verifier;
use crate::runtime::clock;

/// The `[auth]` sections.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuthList {
    /// The sections, by name.
    auths: Vec<AuthSection>,
}

/// An `[auth]` section.
#[derive(Debug, Serialize, ToSchema)]
struct AuthSection {
    /// Its name.
    name: String,
    /// The line of its section.
    line: Option<usize>,
    /// Its settings in the file.
    settings: Vec<WrittenSetting>,
    /// `jwt` or `forward`.
    #[schema(pattern = "^(jwt|forward)$")]
    kind: &'static str,
    /// The names of the routes that use it.
    routes: Vec<String>,
    /// The open sessions that it admitted.
    sessions: usize,
    /// Its key set; null if its keys are not fetched.
    key_set: Option<FetchedKeySet>,
    /// The questions to its service, by outcome.
    outcomes: BTreeMap<&'static str, u64>,
}

/// A key set that is fetched.
#[derive(Debug, Serialize, ToSchema)]
struct FetchedKeySet {
    /// Its URL, or that of the issuer's configuration, without the query.
    url: String,
    /// Seconds since the last successful fetch; null before the first one.
    age_seconds: Option<f64>,
    /// Whether it verifies tokens.
    usable: bool,
    /// The age from which it is not used any more.
    stale_after_seconds: f64,
    /// The fetches that succeeded.
    fetches_succeeded: u64,
    /// The fetches that failed.
    fetches_failed: u64,
}

/// Lists the `[auth]` sections that routes use.
#[utoipa::path(
    get,
    path = "/v1/auths",
    tag = "configuration",
    responses((status = 200, description = "The sections", body = AuthList))
)]
pub(super) async fn list(Extract(state): Shared) -> axum::Json<AuthList> {
    let snapshot = state.control.gateway().snapshot();
    let mut sessions: HashMap<Arc<str>, usize> = HashMap::new();
    for auth in state.control.sessions().await.into_iter().filter_map(|session| session.auth) {
        *sessions.entry(auth).or_default() += 1;
    }
    let routes = |name: &str| {
        let uses = snapshot.policy().routes().iter().filter(|route| route.auth.named(name).is_some());
        uses.map(|route| route.name().to_string()).collect()
    };
    let auths = snapshot.auths().map(|method| {
        let sessions = sessions.get(&method.name).copied().unwrap_or_default();
        AuthSection::new(method, routes(&method.name), sessions, snapshot.setting_lines())
    });
    axum::Json(AuthList { auths: auths.collect() })
}

impl AuthSection {
    fn new(method: &AuthMethod, routes: Vec<String>, sessions: usize, lines: &SettingLines) -> Self {
        let section = SettingSection::Auth(&method.name);
        let (kind, key_set, outcomes) = match &method.kind {
            AuthKind::Token(verifier) => ("jwt", FetchedKeySet::of(verifier), BTreeMap::new()),
            AuthKind::Forward(forward) => {
                let outcomes = AuthOutcome::ALL.map(|outcome| (outcome.label(), forward.outcomes(outcome)));
                ("forward", None, BTreeMap::from(outcomes))
            }
        };
        Self {
            name: method.name.to_string(),
            line: line(lines, section),
            settings: written(lines, section, None),
            kind,
            routes,
            sessions,
            key_set,
            outcomes,
        }
    }
}

impl FetchedKeySet {
    /// Returns the key set of a section; `None` if its keys are not fetched.
    fn of(verifier: &Verifier) -> Option<Self> {
        let KeySource::Remote { keys, stale_for } = &verifier.config().keys else { return None };
        let (live, now) = (verifier.live_keys()?, clock::now());
        let (fetches_succeeded, fetches_failed) = live.fetches();
        Some(Self {
            url: keys.location.url().to_string(),
            age_seconds: live.age(now).map(seconds),
            usable: verifier.check_keys(now).is_ok(),
            stale_after_seconds: seconds(*stale_for),
            fetches_succeeded,
            fetches_failed,
        })
    }
}
