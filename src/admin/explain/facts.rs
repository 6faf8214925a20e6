//! The facts about an end or a rejection, in the words of explanations, and the explanation itself.

use std::borrow::Cow;

use crate::config::SettingSection;
use crate::config::keys::Key;

/// The facts about a session or a request that explanations name, each as the log shows it. A fact that is not known is
/// `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The listener's address as the configuration has it.
    pub listener: Option<&'a str>,
    /// The name of the route.
    pub route: Option<&'a str>,
    /// The name of the auth section that decided.
    pub auth: Option<&'a str>,
    /// The name of the upstream.
    pub upstream: Option<&'a str>,
    /// The upstream's server.
    pub server: Option<&'a str>,
    /// The `Origin` of the request.
    pub origin: Option<&'a str>,
    /// The host of the request.
    pub host: Option<&'a str>,
    /// The path of the request, without the query.
    pub path: Option<&'a str>,
    /// The client's address.
    pub address: Option<&'a str>,
    /// The name of a claim.
    pub claim: Option<&'a str>,
    /// Whether the route requires the claim; `None`: not known.
    pub is_claim_required: Option<bool>,
    /// Whether a route serves only some hosts.
    pub has_hosts: bool,
    /// The route that serves the path with a slash more or less at its end.
    pub slash_route: Option<&'a str>,
    /// Whether the nodes of a cluster count the sessions of a client together.
    pub shares_slots: bool,
    /// Further text, such as an error of the upstream.
    pub detail: Option<&'a str>,
}

/// The advice for a token that was revoked, at the opening handshake or later.
pub(super) const REVOKED_ADVICE: &str = "The client has to log in again. A revocation of a subject without \
    `issued_before` rejects new tokens, too, until it ends or is removed: `tollgate revoke --list` and the dashboard \
    list it. One of `revocations_file` ends when it is removed there.";

/// An explanation for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// The event and the rule, in one or two sentences.
    pub text: String,
    /// The change that prevents the event, or that none is needed.
    pub advice: String,
    /// The settings that decide, the most relevant first: section and key. A setting of a section that is not known is
    /// left out.
    pub settings: Vec<(SettingSection<'a>, &'static str)>,
}

/// An explanation whose settings have no section yet.
pub(super) struct Words {
    text: Cow<'static, str>,
    advice: Cow<'static, str>,
    keys: &'static [Key],
}

/// Returns an explanation: text, advice, and the keys that decide.
pub(super) fn words(
    text: impl Into<Cow<'static, str>>,
    advice: impl Into<Cow<'static, str>>,
    keys: &'static [Key],
) -> Words {
    Words { text: text.into(), advice: advice.into(), keys }
}

impl Words {
    /// Adds the sections of the settings.
    pub(super) fn about<'a>(self, facts: &Facts<'a>) -> Explanation<'a> {
        let located = self.keys.iter().filter_map(|key| Some((facts.section(key)?, key.name)));
        Explanation { text: self.text.into(), advice: self.advice.into(), settings: located.collect() }
    }
}

impl<'a> Facts<'a> {
    /// Returns the section that has the key, if it is known.
    fn section(&self, key: &Key) -> Option<SettingSection<'a>> {
        match key.section {
            "server" => Some(SettingSection::Server),
            "log" => Some(SettingSection::Log),
            "admin" => Some(SettingSection::Admin),
            "metrics" => Some(SettingSection::Metrics),
            "cluster" => Some(SettingSection::Cluster),
            "listener" => self.listener.map(SettingSection::Listener),
            "auth" => self.auth.map(SettingSection::Auth),
            "upstream" => self.upstream.map(SettingSection::Upstream),
            "upstream.health" => self.upstream.map(SettingSection::UpstreamHealth),
            "route" => self.route.map(SettingSection::Route),
            "route.limits" => self.route.map(SettingSection::RouteLimits),
            _ => None,
        }
    }

    /// Returns the route in words.
    pub(super) fn the_route(&self) -> String {
        self.route.map_or_else(|| "the route".to_owned(), |name| format!("the route \"{name}\""))
    }

    /// Returns the auth section in words.
    pub(super) fn the_auth(&self) -> String {
        self.auth.map_or_else(|| "the auth section".to_owned(), |name| SettingSection::Auth(name).to_string())
    }

    /// Returns the upstream in words.
    pub(super) fn the_upstream(&self) -> String {
        self.upstream.map_or_else(|| "the upstream".to_owned(), |name| format!("the upstream \"{name}\""))
    }

    /// Returns the server in words, with its upstream.
    pub(super) fn the_server(&self) -> String {
        let upstream = self.the_upstream();
        self.server.map_or_else(|| format!("a server of {upstream}"), |name| format!("the server {name} of {upstream}"))
    }

    /// Returns the client's address in words.
    pub(super) fn the_address(&self) -> String {
        self.address.map_or_else(|| "the client's address".to_owned(), |address| format!("the address {address}"))
    }

    /// Returns the path in words.
    pub(super) fn the_path(&self) -> String {
        self.path.map_or_else(|| "the path".to_owned(), |path| format!("the path {path}"))
    }

    /// Returns the claim in words.
    pub(super) fn the_claim(&self) -> String {
        self.claim.map_or_else(|| "a claim".to_owned(), |claim| format!("the claim \"{claim}\""))
    }

    /// Returns the detail in brackets, after a space; empty if there is none.
    pub(super) fn in_brackets(&self) -> String {
        self.detail.map_or_else(String::new, |detail| format!(" ({detail})"))
    }
}

/// Returns a sentence with its first letter as a capital.
pub(super) fn sentence(text: impl AsRef<str>) -> String {
    let mut letters = text.as_ref().chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
