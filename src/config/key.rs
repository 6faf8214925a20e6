//! A configuration key: its section, the kind of its value, its bounds, its default and its description.

use std::time::Duration;

use super::units::{show_duration, show_size};

/// One configuration key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its section: a name in [`SECTIONS`](super::keys::SECTIONS), `listener.certificates`, `upstream.servers`,
    /// `upstream.tls` or `upstream.cookie`.
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: Kind,
    /// Its default.
    pub default: Default,
    /// Its description, for `config/example.toml` and for help texts.
    pub doc: &'static str,
}

/// The kind of a value. Bounds are inclusive; [`AllowsOff`] is whether the string `"off"` is a value, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A list of strings.
    StringList,
    /// A string, or a list of strings.
    TextOrList,
    /// The path of a file.
    File,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Integer(u32, u32, AllowsOff),
    /// A duration such as `"30s"`.
    Duration(Duration, Duration, AllowsOff),
    /// A size such as `"64KiB"`.
    Size(u64, u64, AllowsOff),
    /// A rate such as `"50/s"`; the number is the largest count.
    Rate(u32, AllowsOff),
    /// A rate of bytes such as `"1MiB/s"`; the numbers bound the size.
    ByteRate(u64, u64, AllowsOff),
    /// A share such as `"20%"`.
    Percent(AllowsOff),
    /// A share in a time, such as `"5%/m"`.
    PercentRate(AllowsOff),
    /// A table of strings whose keys the operator chooses.
    Table,
    /// A table whose keys are claims: each has an accepted value, a list of them, or `{ present = true }`.
    Conditions,
    /// A list of tables.
    TableArray,
    /// A list of strings, or tables with the keys of the section `SECTION.NAME`.
    TextsOrTables,
    /// A table with the keys of the section `SECTION.NAME`.
    InnerTable,
}

/// Whether `"off"` is a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowsOff {
    /// `"off"` is a value.
    Allowed,
    /// `"off"` is not a value.
    Refused,
}

/// The default of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// The key is required.
    Required,
    /// This value, in TOML.
    Value(&'static str),
    /// A value that depends on another key, described in words.
    Derived(&'static str),
    /// The key is optional and has no default.
    Nothing,
}

impl Key {
    /// Returns the bounds in words: `1s to 1h`, `"json", "text"`. Empty for a kind without bounds.
    #[must_use]
    pub fn bounds(&self) -> String {
        let or_off = |off, text: String| if off == AllowsOff::Allowed { format!("{text}, or \"off\"") } else { text };
        match self.kind {
            Kind::Choice(all) => all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", "),
            Kind::Flag => "true or false".to_owned(),
            Kind::Integer(min, max, off) => or_off(off, format!("{min} to {max}")),
            Kind::Duration(min, max, off) => or_off(off, format!("{} to {}", show_duration(min), show_duration(max))),
            Kind::Size(min, max, off) => or_off(off, format!("{} to {}", show_size(min), show_size(max))),
            Kind::Rate(max, off) => or_off(off, format!("1 to {max} per s, m or h")),
            Kind::ByteRate(min, max, off) => {
                or_off(off, format!("{} to {} per s, m or h", show_size(min), show_size(max)))
            }
            Kind::Percent(off) => or_off(off, "0% to 100%".to_owned()),
            Kind::PercentRate(off) => or_off(off, "1% to 100% per s, m or h".to_owned()),
            Kind::Text
            | Kind::StringList
            | Kind::TextOrList
            | Kind::File
            | Kind::Table
            | Kind::Conditions
            | Kind::TableArray
            | Kind::TextsOrTables
            | Kind::InnerTable => String::new(),
        }
    }
}

/// Defines a constant for each key, and one for the list of them.
macro_rules! keys {
    (
        $(#[doc = $list_doc:literal])* $list:ident;
        $($constant:ident = $section:literal $name:literal, $kind:expr, $default:expr, $doc:literal;)*
    ) => {
        $(
            #[doc = $doc]
            pub const $constant: $crate::config::key::Key = $crate::config::key::Key {
                section: $section,
                name: $name,
                kind: $kind,
                default: $default,
                doc: $doc,
            };
        )*

        $(#[doc = $list_doc])*
        pub(super) const $list: &[$crate::config::key::Key] = &[$($constant),*];
    };
}
pub(super) use keys;

/// Joins two lists of keys, which have `N` keys together.
pub(super) const fn joined<const N: usize>(first: &[Key], second: &[Key]) -> [Key; N] {
    let mut all = [first[0]; N];
    let mut index = 0;
    while index < N {
        all[index] = if index < first.len() { first[index] } else { second[index - first.len()] };
        index += 1;
    }
    all
}

/// Maximum count of a rate, and maximum burst: far beyond what one client sends.
pub(super) const COUNT_MAX: u32 = 1_000_000;

pub(super) const MS_1: Duration = Duration::from_millis(1);
pub(super) const MS_100: Duration = Duration::from_millis(100);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const DAY: Duration = Duration::from_hours(24);

/// Returns the kind of a number that cannot be `"off"`.
pub(super) const fn number(min: u32, max: u32) -> Kind {
    Kind::Integer(min, max, AllowsOff::Refused)
}

/// Returns the kind of a duration that cannot be `"off"`.
pub(super) const fn span(min: Duration, max: Duration) -> Kind {
    Kind::Duration(min, max, AllowsOff::Refused)
}
