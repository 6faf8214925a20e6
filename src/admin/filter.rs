//! Selects sessions by their facts.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::{Problem, Result};
use super::schema;
use crate::policy::address::Addresses;
use crate::server::control::SessionEntry;
use crate::telemetry::request::RequestId;

/// Limit on the text to search.
const SEARCH_MAX_BYTES: usize = 256;

/// The sessions to select: those that match every given field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Filter {
    /// The id of one session.
    #[schema(pattern = "^[0-9a-fA-F]{32}$")]
    pub(super) id: Option<String>,
    /// The name of the route.
    pub(super) route: Option<String>,
    /// The name of the `[auth]` section.
    pub(super) auth: Option<String>,
    /// The subject; of every section, unless `auth` is given.
    pub(super) subject: Option<String>,
    /// The client's address, or a network such as `10.0.0.0/8`.
    #[schema(schema_with = schema::address_or_null)]
    pub(super) address: Option<String>,
    /// The name of the upstream.
    pub(super) upstream: Option<String>,
    /// The upstream's server.
    pub(super) server: Option<String>,
    /// Text in the id, a name, the subject, the address, the host, the path or the origin; ASCII case is ignored.
    #[schema(min_length = 1, max_length = 256)]
    pub(super) search: Option<String>,
    /// Has to be true if no other field is given.
    pub(super) all: bool,
}

/// A checked filter.
#[derive(Debug)]
pub(super) struct Selection {
    filter: Filter,
    id: Option<RequestId>,
    addresses: Option<Addresses>,
}

impl Filter {
    /// Whether no field restricts the selection.
    fn is_empty(&self) -> bool {
        let Self { id, route, auth, subject, address, upstream, server, search, all: _ } = self;
        [id, route, auth, subject, address, upstream, server, search].into_iter().all(Option::is_none)
    }

    /// Checks the filter of a list, which may be empty.
    ///
    /// # Errors
    /// If the id, the address or the text to search is malformed.
    pub(super) fn check(self) -> Result<Selection> {
        if self.search.as_ref().is_some_and(|text| !(1..=SEARCH_MAX_BYTES).contains(&text.len())) {
            return Err(Problem::bad_request(format!("`search` has 1 to {SEARCH_MAX_BYTES} bytes")));
        }
        let id = self.id.as_deref().map(|id| {
            parse_id(id).ok_or_else(|| Problem::bad_request("the id of a session has 32 hexadecimal digits"))
        });
        let addresses = self.address.as_deref().map(|address| {
            let net = address.parse::<IpNet>().ok().or_else(|| address.parse::<IpAddr>().ok().map(IpNet::from));
            let net = net.ok_or_else(|| Problem::bad_request("`address` is neither an IP address nor a network"))?;
            Ok::<_, Box<Problem>>(Addresses::new(vec![net], Vec::new()))
        });
        Ok(Selection { id: id.transpose()?, addresses: addresses.transpose()?, filter: self })
    }

    /// Checks the filter of a change, which has to select all sessions explicitly.
    ///
    /// # Errors
    /// If it is empty, or one of its fields is malformed.
    pub(super) fn check_for_change(self, all: bool) -> Result<Selection> {
        if self.is_empty() && !self.all && !all {
            return Err(Problem::bad_request("an empty filter selects all sessions only with \"all\": true"));
        }
        self.check()
    }
}

impl Selection {
    /// Returns the filter that was checked.
    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether a session matches.
    pub(super) fn matches(&self, session: &SessionEntry) -> bool {
        let Filter { route, auth, subject, upstream, server, search, .. } = &self.filter;
        let is = |wanted: &Option<String>, own: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| own.is_some_and(|own| own == wanted))
        };
        self.id.is_none_or(|id| id == session.id)
            && is(route, Some(&session.route))
            && is(auth, session.auth.as_deref())
            && is(subject, session.subject.as_deref())
            && is(upstream, Some(&session.upstream))
            && is(server, Some(&session.server))
            && self.addresses.as_ref().is_none_or(|addresses| addresses.allow(session.address))
            && search.as_deref().is_none_or(|text| contains(session, text))
    }

    /// Returns the fields for an audit line. The subject is left out: `[log] subject` may forbid it.
    pub(super) fn summary(&self) -> String {
        let Filter { id, route, auth, subject, address, upstream, server, search, all: _ } = &self.filter;
        let hidden = Some("...".to_owned());
        let fields = [
            ("id", id),
            ("route", route),
            ("auth", auth),
            ("subject", if subject.is_some() { &hidden } else { &None }),
            ("address", if address.is_some() { &hidden } else { &None }),
            ("upstream", upstream),
            ("server", server),
            ("search", if search.is_some() { &hidden } else { &None }),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_deref()?)));
        let given: Vec<String> = given.collect();
        if given.is_empty() { "all".to_owned() } else { given.join(" ") }
    }
}

/// Whether a fact about a session contains this text.
fn contains(session: &SessionEntry, text: &str) -> bool {
    let facts = [
        Some(&*session.route),
        session.auth.as_deref(),
        session.subject.as_deref(),
        Some(&*session.upstream),
        Some(&*session.server),
        session.host.as_deref(),
        session.path.as_deref(),
        session.origin.as_deref(),
    ];
    let is_in = |fact: &str| fact.as_bytes().windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()));
    facts.into_iter().flatten().any(is_in)
        || is_in(&session.address.to_canonical().to_string())
        || is_in(&session.id.to_string())
}

/// Parses the id of a session.
pub(super) fn parse_id(text: &str) -> Option<RequestId> {
    let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(RequestId)
}

#[cfg(test)]
mod tests;
