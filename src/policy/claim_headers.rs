//! Returns the headers for the upstream that carry the claims of a client whom the route admits.

use http::{HeaderName, HeaderValue};

use super::claim_path::ClaimPath;
use super::claims::{self, Claims};
use super::pattern::Params;
use super::route::Route;

/// Checks the claims against the conditions of the route, and returns the headers for the upstream. The error is the
/// name of the claim that fails.
pub(super) fn claim_headers<'a>(
    route: &'a Route,
    params: &Params,
    claims: &Claims,
) -> Result<Vec<(HeaderName, HeaderValue)>, &'a str> {
    if let Some(unmet) = route.config.require.iter().find(|requirement| !requirement.met_by(claims, params)) {
        return Err(unmet.claim().as_str());
    }
    claims::forward(claims, &route.config.forward_claims).map_err(|_| {
        let fails = |rule: &&(ClaimPath, HeaderName)| claims::forward(claims, std::slice::from_ref(*rule)).is_err();
        route.config.forward_claims.iter().find(fails).map_or("", |(claim, _)| claim.as_str())
    })
}
