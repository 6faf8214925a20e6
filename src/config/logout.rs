//! Reads the settings of back-channel logout in an `[auth.NAME]` section, and checks them against the routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Section};
use super::keys;
use crate::policy::logout::LogoutRules;
use crate::policy::pattern::PathPattern;
use crate::policy::route::{RouteConfig, hides, shadowed};
use crate::policy::token::VerifierConfig;

/// The maximum number of audiences.
const AUDIENCES_MAX: usize = 64;

/// The settings of a section, and the place of its path in the file.
pub(super) struct LogoutSetting {
    rules: LogoutRules,
    path: Span,
}

/// Reads the settings. The verifier of the section, whose issuer and audience hold for logout tokens, is `None` after
/// an error.
pub(super) fn read(
    section: &Section<'_>,
    verifier: Option<VerifierConfig>,
) -> (Option<VerifierConfig>, Option<LogoutSetting>) {
    let given = section.key_span(&keys::BACKCHANNEL_LOGOUT_AUDIENCE);
    let own = if given.is_some() { audience(section) } else { Some(Vec::new()) };
    if section.key_span(&keys::BACKCHANNEL_LOGOUT_PATH).is_none() {
        if let Some(span) = given {
            section.diagnostics.push(
                Diagnostic::error(span, "`backchannel_logout_audience` has no effect")
                    .label("the section has no `backchannel_logout_path`"),
            );
            return (None, None);
        }
        return (verifier, None);
    }
    let path = path(section);
    let (Some(verifier), Some(path), Some(own)) = (verifier, path, own) else { return (None, None) };
    let audience = if given.is_some() { own } else { verifier.audience.clone() };
    let missing = match (&verifier.issuer, audience.is_empty()) {
        (None, _) => "issuer",
        (_, true) => "audience",
        _ => {
            if verifier.subject_claim.as_str() != "sub" {
                let message = "logout tokens name the subject by `sub`, and this section by `subject_claim`";
                let label = "only logout tokens with a `sid` end sessions";
                section.diagnostics.push(Diagnostic::warning(path.span.clone(), message).label(label));
            }
            let rules = LogoutRules { path: path.value, audience };
            return (Some(verifier), Some(LogoutSetting { rules, path: path.span }));
        }
    };
    section.diagnostics.push(
        Diagnostic::error(path.span, format!("`backchannel_logout_path` needs `{missing}`"))
            .label("a logout token of any other would be accepted")
            .help("see OpenID Connect Back-Channel Logout 1.0 section 2.6"),
    );
    (None, None)
}

fn path(section: &Section<'_>) -> Option<Located<PathPattern>> {
    let text = section.text(&keys::BACKCHANNEL_LOGOUT_PATH)?;
    let label = match text.parse::<PathPattern>() {
        Ok(path) if path.names().next().is_none() => return Some(Located { value: path, span: text.span }),
        Ok(_) => "it cannot have placeholders".to_owned(),
        Err(error) => error.to_string(),
    };
    section.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("{} cannot be the path of logouts", quote(&text))).label(label),
    );
    None
}

fn audience(section: &Section<'_>) -> Option<Vec<String>> {
    let texts = section.texts(&keys::BACKCHANNEL_LOGOUT_AUDIENCE, AUDIENCES_MAX)?;
    if texts.value.is_empty() || texts.value.iter().any(|text| text.is_empty()) {
        section.diagnostics.push(
            Diagnostic::error(texts.span, "`backchannel_logout_audience` is empty")
                .label("leave the key out to accept the values of `audience`"),
        );
        return None;
    }
    Some(texts.value.into_iter().map(|text| text.value).collect())
}

/// Returns the rules of the sections that routes use, of these settings by name. Reports a path that a route on the
/// same host has, too.
pub(super) fn rules<'a>(
    root: &Section<'_>,
    settings: impl Iterator<Item = (Arc<str>, &'a LogoutSetting)>,
    routes: Option<&[RouteConfig]>,
) -> Option<BTreeMap<Arc<str>, LogoutRules>> {
    let (routes, mut rules, mut is_valid) = (routes?, BTreeMap::new(), true);
    for (name, logout) in settings {
        let hosts: Vec<_> = routes.iter().filter(|route| route.auth.contains(&name)).map(|route| &route.host).collect();
        let path = &logout.rules.path;
        let collides = |route: &&RouteConfig| {
            let at = (&route.host, &route.path);
            hosts.iter().any(|host| shadowed((host, path), at) || route.http && hides((host, path), at))
        };
        if let Some(route) = routes.iter().find(collides) {
            root.diagnostics.push(
                Diagnostic::error(logout.path.clone(), "`backchannel_logout_path` is the path of a route")
                    .label(format!("the route {} has it on the same host", quote(&route.name))),
            );
            is_valid = false;
        } else if !hosts.is_empty() {
            rules.insert(name, logout.rules.clone());
        }
    }
    is_valid.then_some(rules)
}
