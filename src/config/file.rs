//! The parsed TOML file: sections that return typed values with their spans, and report every error instead of stopping
//! at the first.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::{Diagnostic, Diagnostics, Span, quote};
use super::keys::{AllowsOff, Default, KEYS, Key, Kind, SECTIONS};
use super::{suggestion, units};
use crate::policy::quota::Rate;

/// The result of a reader. `None` means that the reader pushed a diagnostic.
pub(super) type Parsed<T> = Option<T>;

/// A value and its span. A default has the span of its section.
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

/// One table of the file. A getter returns `None` if the key is absent and has no default, or if its value is invalid.
/// It reports an invalid value and the absence of a required key.
pub(super) struct Section<'a> {
    /// Its name in [`KEYS`].
    name: &'static str,
    /// Its name in messages, such as `[upstream.chat]`.
    title: String,
    /// The span of its header, or of the table itself if it is inline.
    span: Span,
    /// `None` if the section is not in the file: every key has its default.
    table: Option<&'a DeTable<'a>>,
    pub(super) diagnostics: &'a Diagnostics,
}

impl<'a> Section<'a> {
    /// Returns the root section: the file itself.
    pub(super) fn root(table: &'a DeTable<'a>, diagnostics: &'a Diagnostics) -> Self {
        Self::new("", "the file".to_owned(), 0..0, Some(table), diagnostics)
    }

    /// Creates a section, and reports every key in it that is not in [`KEYS`].
    pub(super) fn new(
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

    /// Returns a subsection that may appear once. If it is absent, every key of it has its default.
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

    /// Returns the subsections that may appear several times: `[[name]]`, or a list of inline tables.
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

    /// Returns the sections `[name.NAME]` with their names, in the order of the file.
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

    /// Returns the name of the section in messages.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Returns the span of the section's header.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Returns the span of the key itself, if the section has it.
    pub(super) fn key_span(&self, key: &Key) -> Option<Span> {
        self.table?.get_key_value(key.name).map(|(name, _)| name.span())
    }

    /// Whether the section has this key, known or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Whether there is no section of this name: the key is absent, or an empty list.
    pub(super) fn lacks(&self, name: &str) -> bool {
        self.raw(name).is_none_or(|(_, value)| value.as_array().is_some_and(|items| items.is_empty()))
    }

    /// Whether the key is present with the value `[]`.
    pub(super) fn is_empty_list(&self, key: &Key) -> bool {
        self.raw(key.name).and_then(|(_, value)| value.as_array()).is_some_and(|items| items.is_empty())
    }

    pub(super) fn text(&self, key: &Key) -> Option<Located<String>> {
        self.read(key, "a string", |value| Ok(value.as_str().map(str::to_owned)))
    }

    pub(super) fn flag(&self, key: &Key) -> Option<Located<bool>> {
        self.read(key, "true or false", |value| Ok(value.as_bool()))
    }

    /// Reads a number that cannot be `"off"`.
    pub(super) fn integer(&self, key: &Key) -> Option<Located<u32>> {
        let Located { value, span } = self.integer_or_off(key)?;
        Some(Located { value: value?, span })
    }

    /// Reads a number. Its value is `None` for `"off"`.
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

    /// Reads a number whose bounds exclude zero.
    pub(super) fn count(&self, key: &Key) -> Option<Located<NonZeroU32>> {
        let Located { value, span } = self.integer(key)?;
        NonZeroU32::new(value).map(|value| Located { value, span })
    }

    /// Reads a number whose bounds exclude zero. Its value is `None` for `"off"`.
    pub(super) fn count_or_off(&self, key: &Key) -> Option<Located<Option<NonZeroU32>>> {
        let Located { value, span } = self.integer_or_off(key)?;
        Some(Located { value: value.and_then(NonZeroU32::new), span })
    }

    /// Reads one of `words`, and returns the value that belongs to it.
    pub(super) fn choice<T: Copy>(&self, key: &Key, words: &[(&str, T)]) -> Option<Located<T>> {
        self.read(key, "a string", |value| {
            let Some(text) = value.as_str() else { return Ok(None) };
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| Some(*meaning));
            let known = || words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
            found.ok_or_else(|| format!("must be one of {}", known()))
        })
    }

    /// Reads a duration that cannot be `"off"`.
    pub(super) fn duration(&self, key: &Key) -> Option<Duration> {
        self.duration_or_off(key)?.value
    }

    /// Reads a duration. Its value is `None` for `"off"`.
    pub(super) fn duration_or_off(&self, key: &Key) -> Option<Located<Option<Duration>>> {
        let Kind::Duration(min, max, off) = key.kind else { return None };
        self.unit(key, "a duration such as \"30s\"", off, |text| units::duration(text, &(min..=max)))
    }

    /// Reads a size in bytes. Its value is `None` for `"off"`.
    pub(super) fn size_or_off(&self, key: &Key) -> Option<Located<Option<u64>>> {
        let Kind::Size(min, max, off) = key.kind else { return None };
        self.unit(key, "a size such as \"64KiB\"", off, |text| units::size(text, &(min..=max)))
    }

    /// Reads a rate. Its value is `None` for `"off"`.
    pub(super) fn rate_or_off(&self, key: &Key) -> Option<Located<Option<Rate>>> {
        let Kind::Rate(max, off) = key.kind else { return None };
        self.unit(key, "a rate such as \"50/s\"", off, |text| units::rate(text, max))
    }

    /// Reads a rate of bytes, whose count is the number of bytes. Its value is `None` for `"off"`.
    pub(super) fn byte_rate_or_off(&self, key: &Key) -> Option<Located<Option<Rate>>> {
        let Kind::ByteRate(min, max, off) = key.kind else { return None };
        self.unit(key, "a rate of bytes such as \"1MiB/s\"", off, |text| units::byte_rate(text, &(min..=max)))
    }

    /// Reads a share in percent. Its value is `None` for `"off"`.
    pub(super) fn percent_or_off(&self, key: &Key) -> Option<Located<Option<u8>>> {
        let Kind::Percent(off) = key.kind else { return None };
        self.unit(key, "a share such as \"20%\"", off, units::percent)
    }

    /// Reads a rate that cannot be `"off"`.
    pub(super) fn rate(&self, key: &Key) -> Option<Rate> {
        self.rate_or_off(key)?.value
    }

    /// Reads a list of strings, each with its span. Items that are not strings are reported and skipped.
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

    /// Reads a string, or a list of strings, each with its span.
    pub(super) fn text_or_texts(&self, key: &Key, count_max: usize) -> Option<Located<Vec<Located<String>>>> {
        match self.raw(key.name) {
            Some((_, value)) if value.as_array().is_some() => self.texts(key, count_max),
            _ => self.text(key).map(|text| Located { span: text.span.clone(), value: vec![text] }),
        }
    }

    /// Reads a table of strings with the spans of names and values, in the order of the file.
    pub(super) fn table(&self, key: &Key, count_max: usize) -> Vec<(Located<String>, Located<String>)> {
        let mut pairs = Vec::new();
        for (name, value) in self.entries(key, count_max) {
            match value.as_str() {
                Some(text) => pairs.push((name, Located { value: text.to_owned(), span: value.span })),
                None => self.wrong_type(&name, "a string", value.span.clone(), type_name(&value)),
            }
        }
        pairs
    }

    /// Reads a table of values of any type with the spans of names and values, in the order of the file.
    pub(super) fn entries(&self, key: &Key, count_max: usize) -> Vec<(Located<String>, Located<&'a DeValue<'a>>)> {
        let Some((span, value)) = self.raw(key.name) else { return Vec::new() };
        let Some(table) = value.as_table() else {
            self.wrong_type(key.name, "a table", span, type_name(value));
            return Vec::new();
        };
        self.check_count(key.name, span, table.len(), count_max);
        let entry = |(name, value): (&Spanned<DeString<'_>>, &'a Spanned<DeValue<'a>>)| {
            let name = Located { value: name.get_ref().to_string(), span: name.span() };
            (name, Located { value: value.get_ref(), span: value.span() })
        };
        let mut entries: Vec<_> = table.iter().map(entry).collect();
        entries.sort_by_key(|(name, _)| name.span.start);
        entries.truncate(count_max);
        entries
    }

    /// Reads a string with a unit, or `"off"`.
    pub(super) fn unit<T>(
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

    /// Reads a value. `convert` returns `None` for a value of the wrong type; `form` names the expected one in the
    /// message.
    fn read<T>(
        &self,
        key: &Key,
        form: &str,
        convert: impl Fn(&DeValue<'_>) -> Result<Option<T>, String>,
    ) -> Option<Located<T>> {
        let Some((span, value)) = self.raw(key.name) else {
            return match key.default {
                // A default is parsed like a value in the file, so that the table of keys and the reader cannot
                // disagree. A test checks that every default is valid.
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

    /// Reports that a required key is absent.
    pub(super) fn missing(&self, key: &Key) {
        self.diagnostics.push(
            Diagnostic::error(self.span.clone(), format!("`{}` is missing", key.name))
                .label(format!("{} needs `{}`", self.title, key.name))
                .help(key.doc),
        );
    }

    pub(super) fn raw(&self, name: &str) -> Option<(Span, &'a DeValue<'a>)> {
        self.table?.get(name).map(|value| (value.span(), value.get_ref()))
    }

    /// Reports a value of the wrong type; `form` names the expected one.
    pub(super) fn wrong_type(&self, name: &str, form: &str, span: Span, found: &str) {
        self.diagnostics.push(
            Diagnostic::error(span, format!("`{}` must be {form}", name.escape_debug()))
                .label(format!("this is {found}")),
        );
    }

    /// Reports a section that is written in the wrong form.
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

    pub(super) fn check_count(&self, name: &str, span: Span, count: usize, count_max: usize) {
        if count > count_max {
            self.diagnostics.push(
                Diagnostic::error(span, format!("too many entries in `{name}`"))
                    .label(format!("{count} entries; the maximum is {count_max}")),
            );
        }
    }

    /// Whether the section has an unknown key whose name is close to that of this one.
    pub(super) fn has_misspelt(&self, key: &Key) -> bool {
        let mut names = self.table.into_iter().flat_map(|table| table.keys()).map(|name| name.get_ref().as_ref());
        names.any(|name| name != key.name && suggestion::nearest(name, known_keys(self.name)) == Some(key.name))
    }

    fn note_unknown_keys(&self) {
        let Some(table) = self.table else { return };
        let known = known_keys(self.name);
        for name in table.keys().filter(|name| !known.contains(name.get_ref().as_ref())) {
            let text = name.get_ref().as_ref();
            let diagnostic = Diagnostic::error(name.span(), format!("unknown key {} in {}", quote(text), self.title));
            let known: Vec<_> = known.iter().copied().collect();
            let help = suggestion::help_for_key(self.name, text, &known);
            self.diagnostics.push(diagnostic.label("not a key of this section").help(help));
        }
    }
}

/// Returns the keys and subsections that a section may have.
fn known_keys(section: &str) -> BTreeSet<&'static str> {
    let keys = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    let children = SECTIONS.iter().filter_map(|form| match form.name.rsplit_once('.') {
        Some((parent, name)) => (parent == section).then_some(name),
        None => section.is_empty().then_some(form.name),
    });
    keys.chain(children).collect()
}

/// Returns the type of a value in words.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
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

/// Parses TOML and reports every syntax error. Returns the document only if there is no error.
pub(super) fn parse<'a>(text: &'a str, diagnostics: &Diagnostics) -> Option<Spanned<DeTable<'a>>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        diagnostics.push(Diagnostic::error(span, format!("not TOML: {}", error.message())));
    }
    errors.is_empty().then_some(document)
}
