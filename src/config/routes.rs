//! Reads the `[[route]]` sections.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::uri::Authority;
use http::{HeaderName, HeaderValue};

use super::access::{self, Access};
use super::auth::Auth;
use super::balance_warnings::note_unhashed;
use super::common::{self, Duplicates, NamedSection};
use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Parsed, Section};
use super::files::FileLoader;
use super::keys::{self, Key};
use super::networks::networks;
use super::refresh::Served;
use super::{claims, limits, refresh, rewrite};
use crate::balance::UpstreamConfig;
use crate::policy::address::Addresses;
use crate::policy::claims::canonical_header_name;
use crate::policy::header_names::HeaderClass;
use crate::policy::host::HostPattern;
use crate::policy::limits::Limits;
use crate::policy::origin::{MissingOrigin, OriginPattern, Origins};
use crate::policy::pattern::PathPattern;
use crate::policy::rewrite::Rewrite;
use crate::policy::route::{OnRemoved, RouteConfig, shadowed};

const ROUTES_MAX: usize = 4096;
const ORIGINS_MAX: usize = 256;
const PASS_HEADERS_MAX: usize = 64;

/// Reads every route, checks the routes against each other, and resolves their references to other sections.
pub(super) fn read_all(
    root: &Section<'_>,
    folder: &FileLoader<'_>,
    auths: &[NamedSection<Auth>],
    upstreams: &[NamedSection<Option<UpstreamConfig>>],
) -> Option<Vec<RouteConfig>> {
    let sections = root.children("route", "route", ROUTES_MAX);
    if root.lacks("route") {
        root.diagnostics.push(Diagnostic::of_file("there is no route").help("add a [[route]] section"));
    }
    let mut names = Duplicates::default();
    let mut used = vec![false; upstreams.len()];
    let mut patterns: Vec<Pattern> = Vec::new();
    let mut read = Vec::new();
    for section in &sections {
        let parts = Parts::read(section, folder, auths, upstreams, &mut names);
        if let Some(used) = parts.upstream.and_then(|upstream| used.get_mut(upstream)) {
            *used = true;
        }
        note_shadowed(section, &parts, &mut patterns);
        read.push(parts);
    }
    refresh::note_collisions(
        root,
        &read.iter().filter_map(Parts::refresh).collect::<Vec<_>>(),
        &patterns.iter().map(Pattern::served).collect::<Vec<_>>(),
    );
    warn_of_unused(root, auths, upstreams, &used);
    read.into_iter().map(|parts| parts.finish(upstreams)).collect()
}

/// The keys of a route, each of which may be invalid. All of them are read before an invalid one discards the route.
struct Parts<'a> {
    name: Option<Located<String>>,
    host: Option<HostPattern>,
    path: Option<Located<PathPattern>>,
    /// Its place among the upstreams of the file.
    upstream: Option<usize>,
    upstream_host: Parsed<Option<HeaderValue>>,
    access: Access<'a>,
    origins: Option<Origins>,
    addresses: Option<Addresses>,
    http: Option<bool>,
    hsts: Parsed<Option<Duration>>,
    bypass_cors_preflight: Option<bool>,
    server_header: Option<bool>,
    refresh_path: Parsed<Option<Located<PathPattern>>>,
    on_removed: Option<OnRemoved>,
    claims: Option<claims::Rules>,
    pass_headers: Option<Vec<HeaderName>>,
    rewrite: Option<Rewrite>,
    limits: Option<Limits>,
}

impl<'a> Parts<'a> {
    fn read(
        section: &Section<'_>,
        folder: &FileLoader<'_>,
        auths: &'a [NamedSection<Auth>],
        upstreams: &[NamedSection<Option<UpstreamConfig>>],
        names: &mut Duplicates<String>,
    ) -> Self {
        let name = name(section, names);
        let access = access::read(section, auths);
        let open = matches!(access, Access::Open);
        let path = parsed(section, &keys::PATH, "a path");
        let claims = claims::read(section, path.as_ref().map(|at| &at.value), open);
        if let (Access::Auths(auths), Some(rules)) = (&access, &claims) {
            for auth in auths {
                rules.claims().for_each(|claim| auth.ask(claim));
            }
        }
        if let Some(rules) = &claims {
            access.check_claims(section, rules);
        }
        if path.is_some() {
            warn_of_foreign_patterns(section);
        }
        let http = section.flag(&keys::HTTP).map(|http| http.value);
        let upstream = upstream(section, upstreams);
        if let Some(upstream) = upstream.and_then(|upstream| upstreams.get(upstream)) {
            note_unhashed(section, path.as_ref().map(|path| &path.value), &access, upstream);
        }
        let pass_headers = pass_headers(section, claims.as_ref());
        let others = rewrite::Others {
            claims: claims.as_ref().map_or(&[], |rules| &rules.forward),
            access: &access,
            pass_headers: pass_headers.as_deref().unwrap_or_default(),
        };
        Self {
            name,
            host: host(section),
            upstream,
            upstream_host: upstream_host(section),
            origins: origins(section, &access),
            addresses: addresses(section),
            http,
            hsts: section.duration_or_off(&keys::HSTS).map(|hsts| hsts.value),
            bypass_cors_preflight: access::bypass_cors_preflight(section, http == Some(true), open),
            server_header: section.flag(&keys::SERVER_HEADER).map(|server_header| server_header.value),
            refresh_path: refresh::read(section, &access),
            on_removed: on_removed(section),
            rewrite: rewrite::read(section, folder, &others, path.as_ref()),
            pass_headers,
            claims,
            limits: limits::read(
                &section.child("route.limits"),
                access.without_subject().as_deref(),
                http != Some(false),
            ),
            path,
            access,
        }
    }

    fn refresh(&self) -> Option<Served<'_>> {
        let (path, name) = (self.refresh_path.as_ref()?.as_ref()?, self.name.as_ref());
        let route = name.map_or("", |name| name.value.as_str());
        Some(Served { host: self.host.as_ref()?, path: &path.value, route, span: &path.span, http: false })
    }

    fn finish(self, upstreams: &[NamedSection<Option<UpstreamConfig>>]) -> Option<RouteConfig> {
        let auth = match self.access {
            Access::Open => Vec::new(),
            Access::Auths(auths) => auths.into_iter().map(Auth::name).collect::<Option<_>>()?,
            Access::Unknown => return None,
        };
        let upstream = upstreams.get(self.upstream?)?;
        let claims = self.claims?;
        Some(RouteConfig {
            name: Arc::from(self.name?.value),
            host: self.host?,
            path: self.path?.value,
            upstream: Arc::from(upstream.name.as_str()),
            upstream_host: self.upstream_host?,
            auth,
            origins: self.origins?,
            addresses: self.addresses?,
            http: self.http?,
            hsts: self.hsts?,
            bypass_cors_preflight: self.bypass_cors_preflight?,
            server_header: self.server_header?,
            refresh_path: self.refresh_path?.map(|path| path.value),
            on_removed: self.on_removed?,
            require: claims.require,
            forward_claims: claims.forward,
            pass_headers: self.pass_headers?,
            rewrite: self.rewrite?,
            limits: Arc::new(self.limits?),
        })
    }
}

fn name(section: &Section<'_>, names: &mut Duplicates<String>) -> Option<Located<String>> {
    let name = section.text(&keys::NAME)?;
    common::name(section, &name, &name.span)?;
    names.note(section, &name, "route", &name);
    Some(name)
}

fn on_removed(section: &Section<'_>) -> Option<OnRemoved> {
    let words = [("drain", OnRemoved::Drain), ("close", OnRemoved::Close)];
    section.choice(&keys::ON_REMOVED, &words).map(|on_removed| on_removed.value)
}

fn host(section: &Section<'_>) -> Option<HostPattern> {
    if section.key_span(&keys::HOST).is_none() {
        return Some(HostPattern::Any);
    }
    parsed(section, &keys::HOST, "a host").map(|host| host.value)
}

/// Reads a string and parses it with the `FromStr` of the policy type.
fn parsed<T: FromStr<Err: ToString>>(section: &Section<'_>, key: &Key, what: &str) -> Option<Located<T>> {
    let text = section.text(key)?;
    parse(section, &text, what).map(|value| Located { value, span: text.span })
}

fn parse<T: FromStr<Err: ToString>>(section: &Section<'_>, text: &Located<String>, what: &str) -> Option<T> {
    let note = |error: T::Err| {
        let message = format!("{} is not {what}", quote(text));
        section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(error.to_string()));
    };
    text.parse().map_err(note).ok()
}

/// Warns of placeholders in the syntax of other routers: here they are literal text, so no request would match.
fn warn_of_foreign_patterns(section: &Section<'_>) {
    let Some(path) = section.text(&keys::PATH) else { return };
    for segment in path.split('/') {
        let Some(help) = foreign_pattern(segment) else { continue };
        section.diagnostics.push(
            Diagnostic::warning(path.span.clone(), format!("{} matches only this text", quote(segment)))
                .label("this segment is literal")
                .help(help),
        );
    }
}

/// Returns the help text for a segment that other routers read as a placeholder or an expression.
fn foreign_pattern(segment: &str) -> Option<String> {
    if segment.starts_with('{') {
        return None;
    }
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let inner = segment.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    // `<int:room>` has the type before the name.
    let bracketed = inner.map(|inner| inner.rsplit(':').next().unwrap_or(inner));
    let bracketed = bracketed.or_else(|| segment.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')));
    // `:room?` is optional, `:room+` and `:room*` match several segments, and an expression may follow the name.
    let prefixed = segment.strip_prefix([':', '$']).map(|rest| rest.trim_end_matches(['?', '+', '*']));
    let prefixed = prefixed.map(|rest| rest.split('(').next().unwrap_or(rest));
    if let Some(name) = bracketed.or(prefixed).filter(|name| is_name(name)) {
        return Some(format!("write {{{name}}} for any one segment"));
    }
    let is_expression = segment.contains(['*', '(', ')', '[', ']', '<', '>', '|', '^', '\\'])
        || segment.contains(".+")
        || segment.ends_with('$') && segment.len() > 1;
    is_expression.then(|| "write {name} for any one segment, or {*name} at the end for the rest".to_owned())
}

fn upstream(section: &Section<'_>, upstreams: &[NamedSection<Option<UpstreamConfig>>]) -> Option<usize> {
    let text = section.text(&keys::UPSTREAM)?;
    let found = upstreams.iter().position(|upstream| upstream.name == text.value);
    if found.is_none() {
        let known: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        common::note_unknown(section, &text, "upstream", &known);
    }
    found
}

fn upstream_host(section: &Section<'_>) -> Parsed<Option<HeaderValue>> {
    if section.key_span(&keys::UPSTREAM_HOST).is_none() {
        return Some(None);
    }
    let text = section.text(&keys::UPSTREAM_HOST)?;
    let authority = text.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
    let value = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if value.is_none() {
        section.diagnostics.push(
            Diagnostic::error(text.span.clone(), format!("{} is not a host", quote(&text)))
                .label("expected a host, or a host and a port"),
        );
    }
    value.map(Some)
}

fn origins(section: &Section<'_>, access: &Access<'_>) -> Option<Origins> {
    let choices = [("allow", MissingOrigin::Allow), ("refuse", MissingOrigin::Refuse)];
    let missing = section.choice(&keys::MISSING_ORIGIN, &choices);
    if section.key_span(&keys::ORIGINS).is_none() {
        // RFC 6455 section 10.2: a browser sends the cookies of a host with a handshake from any page.
        if access.reads_cookie() {
            section.diagnostics.push(
                Diagnostic::error(section.span(), "a route whose token may come from a cookie must list its `origins`")
                    .label("any web page could open sessions in the name of its visitors")
                    .help("list the origins of your pages: origins = [\"https://chat.example.com\"]"),
            );
        } else if access.asks_service() {
            section.diagnostics.push(
                Diagnostic::warning(
                    section.span(),
                    "a route whose clients a service knows by a cookie needs `origins`",
                )
                .label("any web page could open sessions in the name of its visitors")
                .help("list the origins of your pages: origins = [\"https://chat.example.com\"]"),
            );
        }
        return Some(Origins::new(None, missing?.value));
    }
    let texts = section.texts(&keys::ORIGINS, ORIGINS_MAX)?;
    if section.is_empty_list(&keys::ORIGINS) {
        section.diagnostics.push(
            Diagnostic::error(texts.span, "`origins` is empty")
                .label("no browser could open a session")
                .help("leave the key out to admit every origin"),
        );
        return None;
    }
    let read = |text| {
        let pattern = parse::<OriginPattern>(section, text, "an origin")?;
        // RFC 6455 section 10.2: a browser sends the cookies with a handshake from any page of this origin, too.
        if pattern.is_anyone() && access.reads_cookie() {
            section.diagnostics.push(
                Diagnostic::warning(
                    text.span.clone(),
                    format!("the origin {} is unsafe with a token from a cookie", quote(text)),
                )
                .label("any page or file can have this origin, and open sessions in the name of its visitors"),
            );
        }
        Some(pattern)
    };
    let patterns: Vec<_> = texts.value.iter().map(read).collect();
    Some(Origins::new(Some(patterns.into_iter().collect::<Option<_>>()?), missing?.value))
}

/// Reads `pass_headers`. `claims` is `None` if it has an error.
fn pass_headers(section: &Section<'_>, claims: Option<&claims::Rules>) -> Option<Vec<HeaderName>> {
    let texts = section.texts(&keys::PASS_HEADERS, PASS_HEADERS_MAX)?;
    let mut seen = Duplicates::default();
    let read = |text: &Located<String>| {
        let diagnostic = |label: &str| {
            let message = format!("the header {} cannot be passed", quote(text));
            section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(label));
            None
        };
        let Ok(name) = HeaderName::try_from(text.value.as_str()) else { return diagnostic("not the name of a header") };
        let read = canonical_header_name(&name);
        if claims.is_some_and(|claims| claims.forward.iter().any(|(_, header)| canonical_header_name(header) == read)) {
            return diagnostic("`forward_claims` writes this header");
        }
        match HeaderClass::of(&read) {
            HeaderClass::HopByHop => return diagnostic("this header is hop-by-hop and is never forwarded"),
            HeaderClass::Written => return diagnostic("tollgate writes this header itself"),
            HeaderClass::Plain if name == AUTHORIZATION => {
                return diagnostic("this header can carry the token, and is forwarded only where it does not");
            }
            HeaderClass::Plain => section.diagnostics.push(
                Diagnostic::warning(text.span.clone(), format!("the header {} is passed by default", quote(text)))
                    .label("only headers that are removed by default need to be listed"),
            ),
            HeaderClass::Trusted => {}
        }
        seen.note(section, &Located { value: name.to_string(), span: text.span.clone() }, "header", text);
        Some(name)
    };
    let names: Vec<_> = texts.value.iter().map(read).collect();
    names.into_iter().collect()
}

fn addresses(section: &Section<'_>) -> Option<Addresses> {
    let allow = networks(section, &keys::ALLOW_ADDRESSES);
    let deny = networks(section, &keys::DENY_ADDRESSES);
    Some(Addresses::new(allow?, deny?))
}

/// The host and the path of an earlier route.
struct Pattern {
    host: HostPattern,
    path: PathPattern,
    route: String,
    span: Span,
    http: bool,
}

impl Pattern {
    fn served(&self) -> Served<'_> {
        let Self { host, path, route, span, http } = self;
        Served { host, path, route, span, http: *http }
    }
}

/// Reports a route that matches the same requests as an earlier one: one of the two would never be used.
fn note_shadowed(section: &Section<'_>, parts: &Parts<'_>, patterns: &mut Vec<Pattern>) {
    let (Some(host), Some(path)) = (&parts.host, &parts.path) else { return };
    let route = parts.name.as_ref().map_or_else(String::new, |name| name.value.clone());
    if let Some(earlier) = patterns.iter().find(|earlier| shadowed((&earlier.host, &earlier.path), (host, path))) {
        section.diagnostics.push(
            Diagnostic::error(path.span.clone(), "this route can never match")
                .label(format!("route {} has the same host and path", quote(&earlier.route)))
                .related(earlier.span.clone(), "the other route"),
        );
        return;
    }
    let (host, http, span) = (host.clone(), parts.http == Some(true), path.span.clone());
    patterns.push(Pattern { host, path: path.value.clone(), route, span, http });
}

fn warn_of_unused(
    root: &Section<'_>,
    auths: &[NamedSection<Auth>],
    upstreams: &[NamedSection<Option<UpstreamConfig>>],
    used: &[bool],
) {
    let unused_auths = auths.iter().filter(|auth| !auth.value.used.get()).map(|auth| ("auth", &auth.name, &auth.span));
    let unused_upstreams = upstreams.iter().zip(used).filter(|(_, used)| !**used).map(|(upstream, _)| upstream);
    let unused_upstreams = unused_upstreams.map(|upstream| ("upstream", &upstream.name, &upstream.span));
    for (kind, name, span) in unused_auths.chain(unused_upstreams) {
        let message = format!("no route uses {kind} {}", quote(name));
        root.diagnostics.push(Diagnostic::warning(span.clone(), message).label("never used"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_of_other_routers_are_recognized() {
        let table = [
            (
                &[":room", "$room", "<room>", "<int:room>", "[room]", ":room?", ":room*", ":room(\\d+)"][..],
                Some("{room}"),
            ),
            (
                &["(.*)", "ws*", "*.js", "[0-9]+", "(?<id>x)", "a|b", "^ws", "ws$", ".+", "[...rest]", "\\d"],
                Some("{name}"),
            ),
            (&["ws", "", "{room}", "{*rest}", "a:b", "c++", "v1.2", "@me", "~ann", "$", ":", "a,b;c=d", "50%25"], None),
        ];
        for (segments, expected) in table {
            for segment in segments {
                let found = foreign_pattern(segment);
                assert_eq!(found.is_some(), expected.is_some(), "{segment}");
                assert!(found.is_none_or(|help| help.contains(expected.unwrap_or_default())), "{segment}");
            }
        }
    }
}
