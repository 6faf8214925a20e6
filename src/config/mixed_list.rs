//! Lists whose items are strings or inline tables.

use toml::Spanned;
use toml::de::DeValue;

use super::file::{Located, Section, type_name};
use super::keys::Key;

/// An item of a list.
pub(super) enum TextOrTable<'a> {
    /// A string.
    Text(Located<String>),
    /// A table.
    Table(Section<'a>),
}

/// Reads a list of strings and of tables, in the order of the file. `name` is the name of the tables in the list of keys,
/// and `title` their name in messages. Items of another type are reported and skipped. `None` if the key is absent or its
/// value is not a list.
pub(super) fn texts_or_tables<'a>(
    section: &Section<'a>,
    key: &Key,
    (name, title): (&'static str, &str),
    count_max: usize,
) -> Option<Located<Vec<TextOrTable<'a>>>> {
    let Some((span, value)) = section.raw(key.name) else {
        section.missing(key);
        return None;
    };
    let Some(items) = value.as_array() else {
        section.wrong_type(key.name, "a list of strings or tables", span, type_name(value));
        return None;
    };
    section.check_count(key.name, span.clone(), items.len(), count_max);
    let read = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
        DeValue::String(text) => Some(TextOrTable::Text(Located { value: text.to_string(), span: item.span() })),
        DeValue::Table(table) => {
            let inner = Section::new(name, title.to_owned(), item.span(), Some(table), section.diagnostics);
            Some(TextOrTable::Table(inner))
        }
        other => {
            section.wrong_type(key.name, "a list of strings or tables", item.span(), type_name(other));
            None
        }
    };
    Some(Located { value: items.iter().take(count_max).filter_map(read).collect(), span })
}
