//! Reads the key `refresh_path` of a route, and checks that no path is served twice.

use super::access::Access;
use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Parsed, Section};
use super::keys;
use crate::policy::host::HostPattern;
use crate::policy::pattern::PathPattern;
use crate::policy::route::{hides, shadowed};

/// Reads the key.
pub(super) fn read(section: &Section<'_>, access: &Access<'_>) -> Parsed<Option<Located<PathPattern>>> {
    let Some(span) = section.key_span(&keys::REFRESH_PATH) else { return Some(None) };
    let error = |label: &str| {
        section.diagnostics.push(Diagnostic::error(span.clone(), "`refresh_path` cannot be used").label(label));
        None
    };
    match access {
        Access::Open => return error("a route with `auth = \"none\"` has no tokens"),
        Access::Auths(auths) if auths.iter().all(|auth| auth.forward) => {
            return error("no section of this route has tokens: a service decides");
        }
        Access::Auths(_) | Access::Unknown => {}
    }
    let text = section.text(&keys::REFRESH_PATH)?;
    match text.parse::<PathPattern>() {
        Ok(path) if path.names().next().is_some() => {
            error("a token renews all sessions of the route, so the path has no placeholders")
        }
        Ok(path) => Some(Some(Located { value: path, span: text.span })),
        Err(why) => error(&why.to_string()),
    }
}

/// A path that a route serves.
pub(super) struct Served<'a> {
    pub(super) host: &'a HostPattern,
    pub(super) path: &'a PathPattern,
    pub(super) route: &'a str,
    pub(super) span: &'a Span,
    /// Whether it serves ordinary requests there.
    pub(super) http: bool,
}

/// Reports each refresh path that is also the path of a route, or the refresh path of another one, for the same hosts.
pub(super) fn note_collisions(root: &Section<'_>, refreshes: &[Served<'_>], paths: &[Served<'_>]) {
    for (number, refresh) in refreshes.iter().enumerate() {
        let earlier = refreshes.iter().take(number).map(|other| (other, "refresh path"));
        let mut others = paths.iter().map(|other| (other, "path")).chain(earlier);
        let collides = |other: &Served<'_>| {
            let (other_at, at) = ((other.host, other.path), (refresh.host, refresh.path));
            shadowed(other_at, at) || other.http && hides(at, other_at)
        };
        let Some((other, what)) = others.find(|(other, _)| collides(other)) else { continue };
        root.diagnostics.push(
            Diagnostic::error(refresh.span.clone(), "this refresh path is served already")
                .label(format!("it is the {what} of route {}", quote(other.route)))
                .related(other.span.clone(), "the other route"),
        );
    }
}
