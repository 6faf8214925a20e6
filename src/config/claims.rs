//! Reads the keys of a route that use the claims of a token: `require` and `forward_claims`.

use http::header::HeaderName;

use super::common::{self, Duplicates};
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::keys::{self, Key};
use super::require;
use crate::policy::claim_path::ClaimPath;
use crate::policy::claims::canonical_header_name;
use crate::policy::pattern::PathPattern;
use crate::policy::requirement::Requirement;

const FORWARDED_MAX: usize = 32;

/// Headers that control framing, routing and authorization. Tollgate sets or forwards them, so a claim cannot use them.
const RESERVED: [&str; 20] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];
const RESERVED_PREFIXES: [&str; 2] = ["sec-websocket-", "x-forwarded-"];

/// The claims that a route requires and forwards.
pub(super) struct Rules {
    pub(super) require: Vec<Requirement>,
    pub(super) forward: Vec<(ClaimPath, HeaderName)>,
}

impl Rules {
    /// Returns the names of the claims that the route uses.
    pub(super) fn claims(&self) -> impl Iterator<Item = &ClaimPath> {
        let required = self.require.iter().map(Requirement::claim);
        required.chain(self.forward.iter().map(|(claim, _)| claim))
    }
}

/// Reads both keys. `path` is `None` if it has an error; `open` is whether the route requires no token.
pub(super) fn read(section: &Section<'_>, path: Option<&PathPattern>, open: bool) -> Option<Rules> {
    if open {
        note_without_token(section, &keys::REQUIRE);
        note_without_token(section, &keys::FORWARD_CLAIMS);
    }
    let require = require::read(section, path);
    let mut seen = Duplicates::default();
    let forward: Vec<_> = section
        .table(&keys::FORWARD_CLAIMS, FORWARDED_MAX)
        .iter()
        .map(|pair| forwarded(section, pair, &mut seen))
        .collect();
    Some(Rules { require: require?, forward: forward.into_iter().collect::<Option<_>>()? })
}

fn note_without_token(section: &Section<'_>, key: &Key) {
    if let Some(span) = section.key_span(key) {
        section.diagnostics.push(
            Diagnostic::error(span, format!("`{}` needs a token, but this route has `auth = \"none\"`", key.name))
                .label("there are no claims"),
        );
    }
}

fn forwarded(
    section: &Section<'_>,
    (claim, header): &(Located<String>, Located<String>),
    seen: &mut Duplicates<String>,
) -> Option<(ClaimPath, HeaderName)> {
    let diagnostic = |label: &str| {
        let message = format!("the claim {} cannot go into the header {}", quote(claim), quote(header));
        section.diagnostics.push(Diagnostic::error(header.span.clone(), message).label(label));
        None
    };
    let path = common::claim_path(section, claim);
    let Ok(name) = HeaderName::try_from(header.value.as_str()) else {
        return diagnostic("not the name of a header");
    };
    let read = canonical_header_name(&name);
    let reserved = RESERVED.contains(&read.as_str()) || RESERVED_PREFIXES.iter().any(|prefix| read.starts_with(prefix));
    if reserved {
        return diagnostic("this header is reserved: it is part of the protocol, or tollgate sets it");
    }
    seen.note(section, &Located { value: name.to_string(), span: header.span.clone() }, "header", header);
    Some((path?, name))
}
