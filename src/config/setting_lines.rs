//! Finds the line of a setting in the text of a configuration.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{ADDRESS, KEYS, Key, NAME};

/// A section of the file. `Display` shows its header as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettingSection<'a> {
    /// `[server]`.
    Server,
    /// `[log]`.
    Log,
    /// `[admin]`.
    Admin,
    /// `[metrics]`.
    Metrics,
    /// `[cluster]`.
    Cluster,
    /// The `[[listener]]` with this address, as the file has it.
    Listener(&'a str),
    /// The `[acme.NAME]` with this name.
    Acme(&'a str),
    /// The `[auth.NAME]` with this name.
    Auth(&'a str),
    /// The `[upstream.NAME]` with this name.
    Upstream(&'a str),
    /// The `[[route]]` with this name.
    Route(&'a str),
    /// The `[route.limits]` of the route with this name.
    RouteLimits(&'a str),
    /// `[upstream.NAME.health]`, by the name of the upstream.
    UpstreamHealth(&'a str),
}

impl<'a> SettingSection<'a> {
    /// The sections that a file has once.
    const SINGLE: [Self; 5] = [Self::Server, Self::Log, Self::Admin, Self::Metrics, Self::Cluster];

    /// Returns its name in [`KEYS`].
    pub fn kind(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Log => "log",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Cluster => "cluster",
            Self::Listener(_) => "listener",
            Self::Acme(_) => "acme",
            Self::Auth(_) => "auth",
            Self::Upstream(_) => "upstream",
            Self::Route(_) => "route",
            Self::RouteLimits(_) => "route.limits",
            Self::UpstreamHealth(_) => "upstream.health",
        }
    }

    /// Returns its own name, which is empty if the file has the section once.
    fn name(self) -> &'a str {
        match self {
            Self::Server | Self::Log | Self::Admin | Self::Metrics | Self::Cluster => "",
            Self::Listener(name)
            | Self::Acme(name)
            | Self::Auth(name)
            | Self::Upstream(name)
            | Self::Route(name)
            | Self::RouteLimits(name)
            | Self::UpstreamHealth(name) => name,
        }
    }
}

impl fmt::Display for SettingSection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Server | Self::Log | Self::Admin | Self::Metrics | Self::Cluster => write!(f, "[{kind}]"),
            // A dot separates the parts of a header, unless it is in quotes.
            Self::Acme(name) | Self::Auth(name) | Self::Upstream(name) if name.contains('.') => {
                write!(f, "[{kind}.\"{name}\"]")
            }
            Self::Acme(name) | Self::Auth(name) | Self::Upstream(name) => write!(f, "[{kind}.{name}]"),
            Self::Listener(name) | Self::Route(name) => write!(f, "[[{kind}]] \"{name}\""),
            Self::RouteLimits(name) => write!(f, "[{kind}] of \"{name}\""),
            Self::UpstreamHealth(name) if name.contains('.') => write!(f, "[upstream.\"{name}\".health]"),
            Self::UpstreamHealth(name) => write!(f, "[upstream.{name}.health]"),
        }
    }
}

/// The line of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingLine {
    /// The line, counted from 1.
    pub line: usize,
    /// Whether the line has the key. If not, the key has its default, and the line is that of the section's header.
    pub is_set: bool,
}

/// The lines of all settings of a configuration. Its size is bounded by that of the text.
#[derive(Debug, Default, Clone)]
pub struct SettingLines {
    /// By kind and name of the section.
    sections: BTreeMap<&'static str, BTreeMap<Box<str>, SectionLines>>,
}

#[derive(Debug, Clone)]
struct SectionLines {
    header: usize,
    settings: Box<[Setting]>,
}

/// A setting that the file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: &'static str,
    /// Its line, counted from 1.
    pub line: usize,
    /// The value as the file has it, cut to 512 bytes. Secrets are in files of their own, except in the queries of URLs,
    /// which are left out.
    pub value: Box<str>,
}

/// Limit on the text of a value.
const VALUE_MAX_BYTES: usize = 512;

impl SettingLines {
    /// Reads the text of a configuration that was checked. A text that is not TOML has no lines, and so has a section or
    /// a key that is not in [`KEYS`]. Of sections with the same name, the first one counts.
    pub fn parse(text: &str) -> Self {
        let mut lines = Self::default();
        let Ok(document) = DeTable::parse(text) else { return lines };
        let (root, numbers) = (document.get_ref(), LineNumbers::new(text));
        let mut add = |section, value: &Spanned<DeValue<'_>>| lines.add(section, value, &numbers);
        for section in SettingSection::SINGLE {
            root.get(section.kind()).into_iter().for_each(|value| add(section, value));
        }
        for (name, value) in named(root, "acme") {
            add(SettingSection::Acme(name), value);
        }
        for (name, value) in named(root, "auth") {
            add(SettingSection::Auth(name), value);
        }
        for (name, value) in named(root, "upstream") {
            add(SettingSection::Upstream(name), value);
            let health = value.get_ref().as_table().and_then(|table| table.get("health"));
            if let Some(value) = health {
                add(SettingSection::UpstreamHealth(name), value);
            }
        }
        for (address, _, value) in listed(root, "listener", &ADDRESS) {
            add(SettingSection::Listener(address), value);
        }
        for (name, table, value) in listed(root, "route", &NAME) {
            add(SettingSection::Route(name), value);
            table.get("limits").into_iter().for_each(|value| add(SettingSection::RouteLimits(name), value));
        }
        lines
    }

    /// Finds a key of a section: its line if the file has it, else the line of the section's header. For a route without
    /// `[route.limits]`, that is the header of the route, and so for an upstream without a section for its health. `None`
    /// if the section is not in the file.
    pub fn find(&self, section: SettingSection<'_>, key: &str) -> Option<SettingLine> {
        let Some(found) = self.section(section) else {
            let outer = match section {
                SettingSection::RouteLimits(route) => SettingSection::Route(route),
                SettingSection::UpstreamHealth(upstream) => SettingSection::Upstream(upstream),
                _ => return None,
            };
            return Some(SettingLine { line: self.section(outer)?.header, is_set: false });
        };
        let line = found.settings.iter().find(|setting| setting.key == key).map(|setting| setting.line);
        Some(SettingLine { line: line.unwrap_or(found.header), is_set: line.is_some() })
    }

    /// Returns the settings that the file has for a section, in the order of the file.
    pub fn settings(&self, section: SettingSection<'_>) -> impl Iterator<Item = &Setting> {
        self.section(section).into_iter().flat_map(|section| &section.settings)
    }

    fn section(&self, section: SettingSection<'_>) -> Option<&SectionLines> {
        self.sections.get(section.kind())?.get(section.name())
    }

    fn add(&mut self, section: SettingSection<'_>, value: &Spanned<DeValue<'_>>, numbers: &LineNumbers<'_>) {
        let Some(table) = value.get_ref().as_table() else { return };
        let known = KEYS.iter().filter(|key| key.section == section.kind());
        let setting = |key: &Key| {
            let (written, value) = table.get_key_value(key.name)?;
            let text = numbers.text.get(value.span()).unwrap_or_default();
            let mut value = without_queries(text);
            value.truncate(value.floor_char_boundary(VALUE_MAX_BYTES));
            Some(Setting { key: key.name, line: numbers.line_at(written.span().start), value: value.into() })
        };
        let header = numbers.line_at(value.span().start);
        let mut settings: Vec<_> = known.filter_map(setting).collect();
        settings.sort_by_key(|setting| setting.line);
        let lines = SectionLines { header, settings: settings.into() };
        self.sections.entry(section.kind()).or_default().entry(section.name().into()).or_insert(lines);
    }
}

/// Returns a value without the queries of the URLs in it.
fn without_queries(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (number, part) in text.split("://").enumerate() {
        if number == 0 {
            shown.push_str(part);
            continue;
        }
        shown.push_str("://");
        let url = part.get(..part.find(['"', '\'']).unwrap_or(part.len())).unwrap_or(part);
        let (before, query) = url.split_once('?').map_or((url, ""), |(before, _)| (before, "?..."));
        shown.push_str(before);
        shown.push_str(query);
        shown.push_str(part.get(url.len()..).unwrap_or_default());
    }
    shown
}

/// Returns the sections `[kind.NAME]`, each with its name.
fn named<'a>(root: &'a DeTable<'a>, kind: &str) -> impl Iterator<Item = (&'a str, &'a Spanned<DeValue<'a>>)> {
    let sections = root.get(kind).and_then(|value| value.get_ref().as_table());
    sections.into_iter().flatten().map(|(name, value)| (name.get_ref().as_ref(), value))
}

/// Returns the sections `[[kind]]`, each with the value of the key that identifies it.
fn listed<'a>(
    root: &'a DeTable<'a>,
    kind: &str,
    identity: &Key,
) -> impl Iterator<Item = (&'a str, &'a DeTable<'a>, &'a Spanned<DeValue<'a>>)> {
    let sections = root.get(kind).and_then(|value| value.get_ref().as_array());
    sections.into_iter().flat_map(|sections| sections.iter()).filter_map(|value| {
        let table = value.get_ref().as_table()?;
        Some((table.get(identity.name)?.get_ref().as_str()?, table, value))
    })
}

/// A text, and the offsets of its line breaks.
struct LineNumbers<'a> {
    text: &'a str,
    breaks: Vec<usize>,
}

impl<'a> LineNumbers<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, breaks: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// Returns the number of the line with the byte at this offset, counted from 1.
    fn line_at(&self, offset: usize) -> usize {
        self.breaks.partition_point(|line_break| *line_break < offset) + 1
    }
}

#[cfg(test)]
mod tests;
