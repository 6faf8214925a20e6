//! The endpoints, and the OpenAPI document that is generated from them.

use std::sync::Arc;

use axum::Extension;
use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{Access, Peer};
use super::extract::check_type;
use super::problem::{PROBLEM_TYPE, Problem};
use super::state::{Shared, State};
use super::{
    auths, certificates, events, frames, handover, history, metrics, nodes, operations, process, revocations, routes,
    schema, servers, sessions, upstreams,
};
use crate::server::control::Control;

/// The changes that an upgrade in progress rejects itself.
const ANSWER_DURING_UPGRADE: [&str; 2] = ["/v1/upgrade", "/v1/reload"];

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Tollgate admin API", description = "Operations on a running Tollgate process"),
    components(schemas(Problem, frames::Missed))
)]
struct Document;

/// Returns the endpoints of the admin API.
pub(super) fn admin(mut state: State, access: Access) -> Router {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(dashboard))
        .routes(routes!(process::healthz))
        .routes(routes!(process::readyz))
        .routes(routes!(metrics::scrape))
        .routes(routes!(process::info))
        .routes(routes!(nodes::list))
        .routes(routes!(process::reload))
        .routes(routes!(handover::upgrade))
        .routes(routes!(process::log_level))
        .routes(routes!(sessions::list))
        .routes(routes!(operations::close))
        .routes(routes!(operations::send))
        .routes(routes!(sessions::describe_one, operations::close_one))
        .routes(routes!(frames::frames))
        .routes(routes!(history::history))
        .routes(routes!(events::list))
        .routes(routes!(upstreams::list))
        .routes(routes!(servers::change))
        .routes(routes!(routes::list))
        .routes(routes!(auths::list))
        .routes(routes!(certificates::list))
        .routes(routes!(revocations::list, revocations::revoke))
        .routes(routes!(revocations::remove))
        .routes(routes!(openapi))
        .split_for_parts();
    complete(&mut document);
    let mut document = serde_json::to_value(document).unwrap_or_default();
    schema::add_rules(&mut document);
    state.openapi = document.to_string().into();
    let control = state.control.clone();
    let router = router.with_state(Arc::new(state));
    with_fallbacks(router)
        .layer(from_fn_with_state(control, hold))
        .layer(from_fn_with_state(Arc::new(access), guard))
        .layer(from_fn(secure))
}

/// Returns the endpoints of the metrics listener: those that need no token, and no other.
pub(super) fn metrics_only(state: State) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics::scrape))
        .route("/healthz", get(process::healthz))
        .route("/readyz", get(process::readyz))
        .with_state(Arc::new(state));
    with_fallbacks(router).layer(from_fn(secure))
}

fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is no such endpoint") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this endpoint does not have this method")
        })
}

/// Passes admitted requests on.
async fn guard(
    Extract(access): Extract<Arc<Access>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let admitted = access.admit(peer, &parts).and_then(|caller| {
        if has_body(&parts.headers) { check_type(&parts.headers).map(|()| caller) } else { Ok(caller) }
    });
    match admitted {
        Ok(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Rejects changes while the process is replaced, because the new process would not know them, and while sessions of the
/// process before still arrive, because a change would miss them. Those that do not change its
/// state have an answer of their own.
async fn hold(Extract(control): Extract<Control>, request: Request, next: Next) -> Response {
    let may_change = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if may_change && !ANSWER_DURING_UPGRADE.contains(&request.uri().path()) && control.is_upgrading() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "an upgrade is in progress: nothing was changed")
            .into_response();
    }
    next.run(request).await
}

fn has_body(headers: &HeaderMap) -> bool {
    let is_empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    headers.contains_key(TRANSFER_ENCODING) || !is_empty
}

/// Adds the headers that every answer has.
async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns the dashboard, which has no data.
#[utoipa::path(
    get,
    path = "/",
    tag = "process",
    security(()),
    responses((status = 200, description = "The dashboard", body = String, content_type = "text/html"))
)]
async fn dashboard(Extract(state): Shared) -> Response {
    state.page.clone().into_response()
}

/// Returns this document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "process",
    responses((status = 200, description = "The OpenAPI document", body = Object))
)]
async fn openapi(Extract(state): Shared) -> Response {
    ([(CONTENT_TYPE, "application/json")], state.openapi.clone()).into_response()
}

/// Adds to the document what all endpoints have in common: the token, and the answers of the layers before the handler.
fn complete(document: &mut OpenApi) {
    let scheme = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("Only on a TCP address")).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    document.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    document.paths.paths.values_mut().flat_map(operations_of).for_each(|(operation, may_change)| {
        let mut add = |status: &str, description: &str| {
            let content = Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem"))));
            let response = ResponseBuilder::new().description(description).content(PROBLEM_TYPE, content).build();
            operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
        };
        add("400", "The request is malformed");
        add("403", "The token may only read, or the Host or Origin is another one");
        add("415", "The body is not JSON");
        add("default", "Another problem");
        if may_change {
            add("408", "The body did not arrive in time");
            add("413", "The body is too large");
        }
        if operation.security.is_none() {
            add("401", "The request has no valid token");
        }
    });
}

/// Returns the operations of a path, and for each whether it may have a body.
fn operations_of(item: &mut PathItem) -> impl Iterator<Item = (&mut Operation, bool)> {
    let PathItem { get, put, post, patch, delete, .. } = item;
    let operations = [(get, false), (put, true), (post, true), (patch, true), (delete, false)];
    operations.into_iter().filter_map(|(operation, has_body)| Some((operation.as_mut()?, has_body)))
}
