//! Warns of upstreams whose `balance` or servers cannot do for a route what they say.

use super::access::Access;
use super::common::NamedSection;
use super::diagnostic::{Diagnostic, quote};
use super::file::Section;
use super::keys;
use crate::balance::{Balance, HashSource, ServerConfig, UpstreamConfig};
use crate::policy::pattern::PathPattern;

/// Warns of a route whose requests lack the part by which the upstream chooses a server.
pub(super) fn note_unhashed(
    section: &Section<'_>,
    path: Option<&PathPattern>,
    access: &Access<'_>,
    upstream: &NamedSection<Option<UpstreamConfig>>,
) {
    let Some(Balance::Hash(source)) = upstream.value.as_ref().map(|config| &config.balance) else { return };
    let label = match source {
        HashSource::Subject => access.without_subject(),
        HashSource::Path(name) => path
            .filter(|path| path.names().all(|known| known != name))
            .map(|_| format!("the path of this route has no {{{name}}}")),
        _ => None,
    };
    let Some(label) = label else { return };
    let span = section.key_span(&keys::UPSTREAM).unwrap_or_else(|| section.span());
    let message = format!("the hash of upstream {} does not apply to this route", quote(&upstream.name));
    section.diagnostics.push(
        Diagnostic::warning(span, message)
            .label(label)
            .help("a request without this value goes to the server with the fewest sessions"),
    );
}

/// Warns of an upstream whose servers all drain.
pub(super) fn note_all_drain(section: &Section<'_>, servers: &[ServerConfig]) {
    if servers.is_empty() || servers.iter().any(|server| !server.drain) {
        return;
    }
    let span = section.key_span(&keys::SERVERS).unwrap_or_else(|| section.span());
    section.diagnostics.push(
        Diagnostic::warning(span, "every server of this upstream drains")
            .label("new sessions are rejected with status 503"),
    );
}
