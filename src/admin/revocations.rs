//! Endpoints that list, make and remove revocations.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State as Extract};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::Caller;
use super::audit;
use super::extract::{Json, Query};
use super::paging::{check_limit, invalid_cursor};
use super::problem::{Problem, Result};
use super::state::{Shared, State};
use crate::front::revoker::RevokeError;
use crate::policy::revocation::entry::{Revocation, RevocationId};
use crate::policy::revocation::written::WrittenRevocation;
use crate::policy::revocation::{ENTRIES_MAX, Origin, Place};
use crate::runtime::clock;

/// The type of the problem of a full store.
const FULL_TYPE: &str = "urn:tollgate:revocations-full";

/// A revocation to make. Exactly one of `subject`, `jti` and `sid` is given; a `subject` needs `auth`. Times are
/// seconds since the Unix epoch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRevocation {
    /// The name of the `[auth]` section; any, if it is absent.
    auth: Option<String>,
    /// The subject: all its tokens.
    #[schema(min_length = 1, max_length = 256)]
    subject: Option<String>,
    /// The `jti` of one token.
    #[schema(min_length = 1, max_length = 256)]
    jti: Option<String>,
    /// The `sid` of all tokens of one session at the issuer.
    #[schema(min_length = 1, max_length = 256)]
    sid: Option<String>,
    /// Only tokens that were issued before this time, or do not say when.
    #[schema(minimum = 0, maximum = 253_402_300_799_i64)]
    issued_before: Option<f64>,
    /// The end of the revocation. If it is absent: `revocation_retention` from now, or later, when the last token
    /// expires that was seen.
    #[schema(minimum = 0, maximum = 253_402_300_799_i64)]
    expires: Option<f64>,
    /// A note, at most 256 characters.
    #[schema(max_length = 256)]
    reason: Option<String>,
}

/// A revocation. Times are seconds since the Unix epoch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListedRevocation {
    /// Its id, 32 hexadecimal digits. It depends only on `auth` and the claim.
    id: String,
    /// `api` for those of this API and of logouts, `file` for those of `revocations_file`.
    #[schema(pattern = "^(api|file)$")]
    source: &'static str,
    /// The name of the `[auth]` section; null: any.
    auth: Option<String>,
    /// The subject.
    subject: Option<String>,
    /// The `jti`.
    jti: Option<String>,
    /// The `sid`.
    sid: Option<String>,
    /// Whether only the subject's tokens without a `sid` are revoked.
    without_sid: bool,
    /// Only tokens that were issued before this time are revoked.
    issued_before: Option<f64>,
    /// The end of the revocation.
    expires: Option<f64>,
    /// The time at which it was made.
    created: Option<f64>,
    /// The note.
    reason: Option<String>,
}

/// A revocation that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MadeRevocation {
    /// The revocation, merged with an earlier one of the same target.
    #[serde(flatten)]
    revocation: ListedRevocation,
    /// The number of open sessions that it ended on this node.
    ended: usize,
    /// Whether it outlives the process: there is a `state_dir`, and it is on disk.
    durable: bool,
    /// Whether the cluster has it; if not, the other nodes get it once its server answers. Absent: revocations are not
    /// shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<bool>,
}

/// One page of the list of revocations.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevocationPage {
    /// The revocations; those that end first are first.
    revocations: Vec<ListedRevocation>,
    /// The cursor of the next page; null on the last one.
    cursor: Option<String>,
    /// Whether revocations of the API outlive the process.
    durable: bool,
}

/// The parameters of a list of revocations.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The largest number of revocations in the answer; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The cursor of the page before.
    #[param(pattern = "^[0-9a-f]{16}[0-9a-f]{32}[01]$")]
    cursor: Option<String>,
}

/// Lists revocations.
#[utoipa::path(
    get,
    path = "/v1/revocations",
    tag = "revocations",
    params(ListQuery),
    responses((status = 200, description = "A page of the list", body = RevocationPage))
)]
pub(super) async fn list(
    Extract(state): Shared,
    Query(ListQuery { limit, cursor }): Query<ListQuery>,
) -> Result<axum::Json<RevocationPage>> {
    let limit = check_limit(limit)?;
    let after = cursor.map(|cursor| decode(&cursor).ok_or_else(invalid_cursor)).transpose()?;
    let gateway = state.control.gateway();
    let (page, has_more) = gateway.counters.revocations().list(after, limit, clock::both().unix);
    let cursor = page.last().filter(|_| has_more).map(|(place, _)| encode(*place));
    let revocations = page.iter().map(|((_, _, origin), entry)| ListedRevocation::new(entry, *origin)).collect();
    Ok(axum::Json(RevocationPage { revocations, cursor, durable: gateway.revoker.is_durable() }))
}

/// Revokes tokens, and ends the open sessions that were admitted with them. The answer follows when the revocation is
/// on disk, if there is a `state_dir`. One of the same target is merged with it.
#[utoipa::path(
    post,
    path = "/v1/revocations",
    tag = "revocations",
    request_body = NewRevocation,
    responses(
        (status = 201, description = "The tokens are revoked", body = MadeRevocation),
        (status = 200, description = "The tokens were revoked already; both revocations are merged",
            body = MadeRevocation),
        (status = 404, description = "No route uses an `[auth]` section of this name", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "It has ended already", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "It could not be stored; the detail says whether it is in effect", body = Problem,
            content_type = "application/problem+json"),
        (status = 507, description = "The store is full; nothing has changed", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn revoke(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Json(body): Json<NewRevocation>,
) -> Result<(StatusCode, axum::Json<MadeRevocation>)> {
    let gateway = state.control.gateway();
    let revocation = check(&state, body)?;
    let summary = summary(&revocation);
    match gateway.revoker.revoke(revocation).await {
        Ok(made) => {
            // Other nodes of a cluster log the id, too.
            audit::log(caller, "revoke", &format_args!("id={} {summary}", made.revocation.target.id()), made.ended);
            let status = if made.is_new { StatusCode::CREATED } else { StatusCode::OK };
            let revocation = ListedRevocation::new(&made.revocation, Origin::Api);
            let (ended, durable, cluster) = (made.ended, made.is_durable, made.is_shared);
            Ok((status, axum::Json(MadeRevocation { revocation, ended, durable, cluster })))
        }
        Err(error) => {
            audit::log(caller, "revoke", &format_args!("{summary} failed: {error}"), 0);
            Err(failed(error))
        }
    }
}

/// Removes a revocation: the tokens are valid again.
#[utoipa::path(
    delete,
    path = "/v1/revocations/{id}",
    tag = "revocations",
    params(("id" = String, Path, description = "The id of the revocation")),
    responses(
        (status = 204, description = "There is no such revocation any more"),
        (status = 404, description = "There is no such revocation", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "It is listed in `revocations_file`", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "The removal could not be stored", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode> {
    let gateway = state.control.gateway();
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "no revocation has this id");
    let id = RevocationId::parse(&id).ok_or_else(unknown)?;
    let is_removed = gateway.revoker.remove(id).await.map_err(failed)?;
    if is_removed {
        audit::log(caller, "unrevoke", &format_args!("id={id}"), 1);
        return Ok(StatusCode::NO_CONTENT);
    }
    if gateway.counters.revocations().is_listed(id) {
        let detail = "this revocation is listed in revocations_file: remove it there";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    Err(unknown())
}

fn check(state: &State, body: NewRevocation) -> Result<Revocation> {
    let NewRevocation { auth, subject, jti, sid, issued_before, expires, reason } = body;
    let (snapshot, now) = (state.control.gateway().snapshot(), clock::both().unix);
    if auth.as_deref().is_some_and(|auth| snapshot.auth(auth).is_none()) {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "`auth` is not the name of an [auth] section that a route uses",
        ));
    }
    let written = WrittenRevocation { auth, subject, jti, sid, issued_before, expires, reason, ..Default::default() };
    let end = snapshot.revocation_end(written.auth.as_deref(), now);
    let revocation = written.read(now, end).map_err(|error| Problem::bad_request(error.to_string()))?;
    if revocation.has_ended(now) {
        return Err(Problem::new(StatusCode::CONFLICT, "`expires` is in the past"));
    }
    Ok(revocation)
}

/// Returns the fields for an audit line. The values are left out: `[log] subject` may forbid them.
fn summary(revocation: &Revocation) -> String {
    let Revocation { target, issued_before, .. } = revocation;
    let auth = target.auth().unwrap_or("any");
    let before = issued_before.map(|time| format!(" issued_before={}", time.as_secs())).unwrap_or_default();
    format!("id={} {}=... auth={auth}{before}", target.id(), target.kind().label())
}

fn failed(error: RevokeError) -> Box<Problem> {
    match error {
        RevokeError::Full => {
            let detail = format!("{error}; it has at most {ENTRIES_MAX} entries: wait until some end, or remove some");
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail).with_type(FULL_TYPE)
        }
        RevokeError::Busy | RevokeError::Upgrading | RevokeError::NotStored | RevokeError::Late => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
    }
}

impl ListedRevocation {
    fn new(revocation: &Arc<Revocation>, origin: Origin) -> Self {
        let WrittenRevocation { auth, subject, jti, sid, without_sid, issued_before, expires, created, reason } =
            WrittenRevocation::of(revocation);
        let source = match origin {
            Origin::Api => "api",
            Origin::Listed => "file",
        };
        let id = revocation.target.id().to_string();
        let created = created.filter(|_| origin == Origin::Api);
        Self { id, source, auth, subject, jti, sid, without_sid, issued_before, expires, created, reason }
    }
}

/// Returns the cursor of a place: the milliseconds of its end, its id and its origin in hexadecimal.
fn encode((end, id, origin): Place) -> String {
    let millis = u64::try_from(end.as_millis()).unwrap_or(u64::MAX);
    format!("{millis:016x}{id}{}", u8::from(origin == Origin::Listed))
}

fn decode(cursor: &str) -> Option<Place> {
    let is_cursor = cursor.len() == 49 && cursor.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (end, rest) = cursor.split_at_checked(16).filter(|_| is_cursor)?;
    let (id, origin) = rest.split_at_checked(32)?;
    let origin = match origin {
        "0" => Origin::Api,
        "1" => Origin::Listed,
        _ => return None,
    };
    Some((Duration::from_millis(u64::from_str_radix(end, 16).ok()?), RevocationId::parse(id)?, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_the_place_of_an_entry() {
        let place = (Duration::from_millis(1_800_000_000_001), RevocationId(7), Origin::Listed);
        assert_eq!(decode(&encode(place)), Some(place));
        let valid = encode(place);
        for cursor in ["", "0", &valid[1..], &format!("{valid}0"), &format!("{}2", &valid[..48])] {
            assert_eq!(decode(cursor), None, "{cursor}");
        }
    }
}
