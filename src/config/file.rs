//! The file as written: sections that hand out typed values with their places, note every fault and go on.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, Span, quote};
use super::keys::{AllowsOff, Default, KEYS, Key, Kind, SECTIONS, UNSUPPORTED_YET};
use super::{suggestion, units};
use crate::policy::quota::Rate;

/// The result of a reader: `None` means that it pushed a diagnostic, so that there is no value.
pub(super) type Parsed<T> = Option<T>;

/// A value and where it stands. A default stands where its section does.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T> Deref for Located<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// One table of the file. A getter gives `None` where the key is absent without a default, and where its value is
/// faulty; the fault is then noted.
pub(super) struct Section<'a> {
    /// Its name in [`KEYS`].
    name: &'static str,
    /// How messages call it: `[upstream.chat]`.
    title: String,
    /// Its header, or the table itself if that is inline.
    span: Span,
    /// Absent: the section is not in the file, and every key has its default.
    table: Option<&'a DeTable<'a>>,
    pub(super) diagnostics: &'a Diagnostics,
}

impl<'a> Section<'a> {
    /// The file itself.
    pub(super) fn root(table: &'a DeTable<'a>, diagnostics: &'a Diagnostics) -> Self {
        Self::new("", "the file".to_owned(), 0..0, Some(table), diagnostics)
    }

    /// Every key that [`KEYS`] does not know is a fault at once.
    fn new(
        name: &'static str,
        title: String,
        span: Span,
        table: Option<&'a DeTable<'a>>,
        diagnostics: &'a Diagnostics,
    ) -> Self {
        let section = Self { name, title, span, table, diagnostics };
        section.note_unknown_keys();
        section
    }

    /// A section that may stand once in this one; if it does not, every key of it has its default.
    pub(super) fn child(&self, name: &'static str) -> Section<'a> {
        let key = name.rsplit('.').next().unwrap_or(name);
        let title = format!("[{name}]");
        let Some((span, value)) = self.raw(key) else {
            return Self::new(name, title, self.span.clone(), None, self.diagnostics);
        };
        let table = value.as_table();
        if table.is_none() {
            self.wrong_type(key, "a table", span.clone(), type_name(value));
        }
        Self::new(name, title, span, table, self.diagnostics)
    }

    /// The sections that may stand many times in this one, `[[name]]` or a list of inline tables.
    pub(super) fn children(&self, key: &str, name: &'static str, count_max: usize) -> Vec<Section<'a>> {
        let Some((span, value)) = self.raw(key) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.wrong_section(key, "a list of tables", span, value);
            return Vec::new();
        };
        self.check_count(key, span, items.len(), count_max);
        let mut sections = Vec::new();
        for item in items.iter().take(count_max) {
            match item.get_ref().as_table() {
                Some(table) => {
                    let title = format!("[[{name}]]");
                    sections.push(Self::new(name, title, item.span(), Some(table), self.diagnostics));
                }
                None => self.wrong_type(key, "a table", item.span(), type_name(item.get_ref())),
            }
        }
        sections
    }

    /// The sections `[name.NAME]` with their names, in the order of the file.
    pub(super) fn named(&self, name: &'static str, count_max: usize) -> Vec<(Located<&'a str>, Section<'a>)> {
        let Some((span, value)) = self.raw(name) else { return Vec::new() };
        let Some(table) = value.as_table() else {
            self.wrong_section(name, &format!("a table: [{name}.NAME]"), span, value);
            return Vec::new();
        };
        self.check_count(name, span, table.len(), count_max);
        let mut sections = Vec::new();
        for (key, value) in table {
            let own = Located { value: key.get_ref().as_ref(), span: key.span() };
            match value.get_ref().as_table() {
                Some(table) => {
                    let title = format!("[{name}.{}]", own.value);
                    sections.push((own, Self::new(name, title, value.span(), Some(table), self.diagnostics)));
                }
                None => self.diagnostics.push(
                    Diagnostic::error(own.span, format!("{} is not a section", quote(own.value)))
                        .label(format!("expected [{name}.NAME]")),
                ),
            }
        }
        sections.sort_by_key(|(own, _)| own.span.start);
        sections.truncate(count_max);
        sections
    }

    /// How messages call the section.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Where the section's header stands.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Where the key itself stands, if it does.
    pub(super) fn key_span(&self, key: &Key) -> Option<Span> {
        self.table?.get_key_value(key.name).map(|(name, _)| name.span())
    }

    /// Whether the section has this key, known or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Whether none of these sections are there.
    pub(super) fn lacks(&self, name: &str) -> bool {
        self.raw(name).is_none_or(|(_, value)| value.as_array().is_some_and(|items| items.is_empty()))
    }

    /// Whether the key is written and its value is `[]`.
    pub(super) fn is_empty_list(&self, key: &Key) -> bool {
        self.raw(key.name).and_then(|(_, value)| value.as_array()).is_some_and(|items| items.is_empty())
    }

    pub(super) fn text(&self, key: &Key) -> Option<Located<String>> {
        self.read(key, "a string", |value| Ok(value.as_str().map(str::to_owned)))
    }

    pub(super) fn flag(&self, key: &Key) -> Option<Located<bool>> {
        self.read(key, "true or false", |value| Ok(value.as_bool()))
    }

    /// A number that cannot be off.
    pub(super) fn integer(&self, key: &Key) -> Option<Located<u32>> {
        let Located { value, span } = self.integer_or_off(key)?;
        Some(Located { value: value?, span })
    }

    /// A number, or `None` for `"off"`.
    fn integer_or_off(&self, key: &Key) -> Option<Located<Option<u32>>> {
        let Kind::Integer(min, max, off) = key.kind else { return None };
        self.read(key, "a whole number", |value| {
            if off == AllowsOff::Allowed && value.as_str() == Some("off") {
                return Ok(Some(None));
            }
            let Some(integer) = value.as_integer() else { return Ok(None) };
            let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
            let number = number.filter(|number| (min..=max).contains(number));
            number.map(|number| Some(Some(number))).ok_or_else(|| format!("must be between {min} and {max}"))
        })
    }

    /// An integer that cannot be zero, as its bounds say.
    pub(super) fn count(&self, key: &Key) -> Option<Located<NonZeroU32>> {
        let Located { value, span } = self.integer(key)?;
        NonZeroU32::new(value).map(|value| Located { value, span })
    }

    /// The same, or `None` for `"off"`.
    pub(super) fn count_or_off(&self, key: &Key) -> Option<Located<Option<NonZeroU32>>> {
        let Located { value, span } = self.integer_or_off(key)?;
        Some(Located { value: value.and_then(NonZeroU32::new), span })
    }

    /// One of the words; each with what it means.
    pub(super) fn choice<T: Copy>(&self, key: &Key, words: &[(&str, T)]) -> Option<Located<T>> {
        self.read(key, "a string", |value| {
            let Some(text) = value.as_str() else { return Ok(None) };
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| Some(*meaning));
            let known = || words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
            found.ok_or_else(|| format!("must be one of {}", known()))
        })
    }

    /// A duration that cannot be off.
    pub(super) fn duration(&self, key: &Key) -> Option<Duration> {
        self.duration_or_off(key)?.value
    }

    /// A duration, or `None` for `"off"`.
    pub(super) fn duration_or_off(&self, key: &Key) -> Option<Located<Option<Duration>>> {
        let Kind::Duration(min, max, off) = key.kind else { return None };
        self.unit(key, "a duration such as \"30s\"", off, |text| units::duration(text, &(min..=max)))
    }

    /// A size in bytes, or `None` for `"off"`.
    pub(super) fn size_or_off(&self, key: &Key) -> Option<Located<Option<u64>>> {
        let Kind::Size(min, max, off) = key.kind else { return None };
        self.unit(key, "a size such as \"64KiB\"", off, |text| units::size(text, &(min..=max)))
    }

    /// A rate, or `None` for `"off"`.
    pub(super) fn rate_or_off(&self, key: &Key) -> Option<Located<Option<Rate>>> {
        let Kind::Rate(max, off) = key.kind else { return None };
        self.unit(key, "a rate such as \"50/s\"", off, |text| units::rate(text, max))
    }

    /// A list of strings, each with its place; those that are no strings are left out and noted.
    pub(super) fn texts(&self, key: &Key, count_max: usize) -> Option<Located<Vec<Located<String>>>> {
        let list = self.read(key, "a list of strings", |value| {
            let read = |item: &Spanned<DeValue<'_>>| {
                let text = item.get_ref().as_str().map(str::to_owned);
                (item.span(), text.ok_or(type_name(item.get_ref())))
            };
            Ok(value.as_array().map(|items| items.iter().map(read).collect::<Vec<_>>()))
        })?;
        self.check_count(key.name, list.span.clone(), list.value.len(), count_max);
        let mut texts = Vec::new();
        for (span, item) in list.value.into_iter().take(count_max) {
            match item {
                Ok(value) => texts.push(Located { value, span }),
                Err(found) => self.wrong_type(key.name, "a list of strings", span, found),
            }
        }
        Some(Located { value: texts, span: list.span })
    }

    /// A table of strings with the places of names and values, in the order of the file.
    pub(super) fn table(&self, key: &Key, count_max: usize) -> Vec<(Located<String>, Located<String>)> {
        let Some((span, value)) = self.raw(key.name) else { return Vec::new() };
        let Some(table) = value.as_table() else {
            self.wrong_type(key.name, "a table", span, type_name(value));
            return Vec::new();
        };
        self.check_count(key.name, span, table.len(), count_max);
        let mut pairs = Vec::new();
        for (name, value) in table {
            match value.get_ref().as_str() {
                Some(text) => {
                    let name = Located { value: name.get_ref().to_string(), span: name.span() };
                    pairs.push((name, Located { value: text.to_owned(), span: value.span() }));
                }
                None => self.wrong_type(name.get_ref(), "a string", value.span(), type_name(value.get_ref())),
            }
        }
        pairs.sort_by_key(|(name, _)| name.span.start);
        pairs.truncate(count_max);
        pairs
    }

    /// A value that is a string with a unit, or `"off"`.
    fn unit<T>(
        &self,
        key: &Key,
        form: &str,
        off: AllowsOff,
        convert: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Located<Option<T>>> {
        self.read(key, form, |value| match value.as_str() {
            None => Ok(None),
            Some("off") if off == AllowsOff::Allowed => Ok(Some(None)),
            Some(text) => convert(text).map(|value| Some(Some(value))),
        })
    }

    /// `convert` gives `None` for a value of another type, which `form` then names.
    fn read<T>(
        &self,
        key: &Key,
        form: &str,
        convert: impl Fn(&DeValue<'_>) -> Result<Option<T>, String>,
    ) -> Option<Located<T>> {
        let Some((span, value)) = self.raw(key.name) else {
            return match key.default {
                // A default goes the way of a written value, so that the table of keys cannot say one thing and the
                // reader do another. That none of them is faulty is tested.
                Default::Value(text) => {
                    let value = DeValue::parse(text).ok().and_then(|value| convert(value.get_ref()).ok())??;
                    Some(Located { value, span: self.span.clone() })
                }
                Default::Required => {
                    self.missing(key);
                    None
                }
                Default::Derived(_) | Default::Nothing => None,
            };
        };
        match convert(value) {
            Ok(Some(value)) => return Some(Located { value, span }),
            Ok(None) => self.wrong_type(key.name, form, span, type_name(value)),
            Err(label) => {
                let value = value.as_str().map_or_else(|| "this number".to_owned(), quote);
                self.diagnostics.push(
                    Diagnostic::error(span, format!("{value} cannot be the value of `{}`", key.name)).label(label),
                );
            }
        }
        None
    }

    /// Notes that a key is absent that may not be.
    pub(super) fn missing(&self, key: &Key) {
        self.diagnostics.push(
            Diagnostic::error(self.span.clone(), format!("`{}` is missing", key.name))
                .label(format!("{} needs `{}`", self.title, key.name))
                .help(key.doc),
        );
    }

    fn raw(&self, name: &str) -> Option<(Span, &'a DeValue<'a>)> {
        self.table?.get(name).map(|value| (value.span(), value.get_ref()))
    }

    fn wrong_type(&self, name: &str, form: &str, span: Span, found: &str) {
        self.diagnostics.push(
            Diagnostic::error(span, format!("`{}` must be {form}", name.escape_debug()))
                .label(format!("this is {found}")),
        );
    }

    /// A section that is written in another form than its own.
    fn wrong_section(&self, name: &str, form: &str, span: Span, found: &DeValue<'_>) {
        let diagnostic =
            Diagnostic::error(span, format!("`{name}` must be {form}")).label(format!("this is {}", type_name(found)));
        let written = suggestion::section(name).unwrap_or_default();
        self.diagnostics.push(if written.is_empty() {
            diagnostic
        } else {
            diagnostic.help(format!("write `{written}`"))
        });
    }

    fn check_count(&self, name: &str, span: Span, count: usize, count_max: usize) {
        if count > count_max {
            self.diagnostics.push(
                Diagnostic::error(span, format!("too many in `{name}`"))
                    .label(format!("{count}, and at most {count_max} may be")),
            );
        }
    }

    fn note_unknown_keys(&self) {
        let Some(table) = self.table else { return };
        let known = known_keys(self.name);
        for name in table.keys().filter(|name| !known.contains(name.get_ref().as_ref())) {
            let text = name.get_ref().as_ref();
            let diagnostic = Diagnostic::error(name.span(), format!("unknown key {} in {}", quote(text), self.title));
            let later = UNSUPPORTED_YET.iter().find(|(section, key, _)| *section == self.name && *key == text);
            self.diagnostics.push(if let Some((_, _, instead)) = later {
                diagnostic.label("it comes in a later version").help(*instead)
            } else {
                let known: Vec<_> = known.iter().copied().collect();
                diagnostic.label("not a key of this section").help(suggestion::help_for_key(self.name, text, &known))
            });
        }
    }
}

/// The keys and sections that may stand in this section.
fn known_keys(section: &str) -> BTreeSet<&'static str> {
    let keys = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    let children = SECTIONS.iter().filter_map(|form| match form.name.rsplit_once('.') {
        Some((parent, name)) => (parent == section).then_some(name),
        None => section.is_empty().then_some(form.name),
    });
    keys.chain(children).collect()
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Reads TOML; every fault of syntax is noted. Without any the document is whole.
pub(super) fn parse<'a>(text: &'a str, diagnostics: &Diagnostics) -> Option<Spanned<DeTable<'a>>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        diagnostics.push(Diagnostic::error(span, format!("not TOML: {}", error.message())));
    }
    errors.is_empty().then_some(document)
}
