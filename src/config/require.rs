//! Reads `require` of a route: the conditions on the claims of a token.

use std::borrow::Cow;

use toml::de::{DeTable, DeValue};

use super::common;
use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Section, type_name};
use super::keys;
use super::suggestion;
use crate::policy::pattern::PathPattern;
use crate::policy::requirement::Requirement;
use crate::policy::template::Template;

const REQUIREMENTS_MAX: usize = 32;
const VALUES_MAX: usize = 64;

/// The key of a condition that accepts every value.
const PRESENT: &str = "present";

/// Reads the conditions. `path` is `None` if it has an error.
pub(super) fn read(section: &Section<'_>, path: Option<&PathPattern>) -> Option<Vec<Requirement>> {
    let entries = section.entries(&keys::REQUIRE, REQUIREMENTS_MAX);
    let read: Vec<_> = entries.iter().map(|(name, value)| requirement(section, name, value, path)).collect();
    read.into_iter().collect()
}

fn requirement(
    section: &Section<'_>,
    name: &Located<String>,
    value: &Located<&DeValue<'_>>,
    path: Option<&PathPattern>,
) -> Option<Requirement> {
    let claim = common::claim_path(section, name);
    let values = match value.value {
        DeValue::Table(table) => {
            present(section, name, &value.span, table)?;
            return claim.map(Requirement::present);
        }
        DeValue::Array(items) => {
            section.check_count(name, value.span.clone(), items.len(), VALUES_MAX);
            if items.is_empty() {
                note(section, name, value.span.clone(), "no value is accepted");
            }
            let read = |item: &toml::Spanned<DeValue<'_>>| accepted(section, name, item.span(), item.get_ref(), path);
            items.iter().take(VALUES_MAX).map(read).collect()
        }
        one => vec![accepted(section, name, value.span.clone(), one, path)],
    };
    Some(Requirement::any_of(claim?, values.into_iter().collect::<Option<_>>()?))
}

/// Reads an accepted value. Numbers and booleans are compared as JSON text, as those of a token are.
fn accepted(
    section: &Section<'_>,
    name: &Located<String>,
    span: Span,
    value: &DeValue<'_>,
    path: Option<&PathPattern>,
) -> Option<Template> {
    let Some(text) = json_text(value) else {
        let form = "a string, a number, true or false, a list of these, or { present = true }";
        section.wrong_type(name, form, span, type_name(value));
        return None;
    };
    match text.parse::<Template>() {
        Ok(value) => {
            check_placeholders(section, &value, &span, path, "no value to compare the claim with");
            Some(value)
        }
        Err(error) => {
            note(section, name, span, &error.to_string());
            None
        }
    }
}

/// Returns a string, or the JSON text of a number or a boolean; `None` if there is none.
fn json_text<'a>(value: &'a DeValue<'_>) -> Option<Cow<'a, str>> {
    Some(match value {
        DeValue::String(text) => Cow::Borrowed(text),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string().into(),
        // TOML also has `inf`, `nan` and a leading `+`.
        DeValue::Float(number) => {
            serde_json::from_str::<f64>(number.as_str()).ok()?;
            number.as_str().into()
        }
        DeValue::Boolean(flag) => flag.to_string().into(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

/// Checks that a table is `{ present = true }`.
fn present(section: &Section<'_>, name: &Located<String>, span: &Span, table: &DeTable<'_>) -> Option<()> {
    // The table of a dotted key has the span of the first part of the key.
    if *span == name.span {
        let inner = table.keys().next().map(|key| key.get_ref().to_string()).unwrap_or_default();
        section.diagnostics.push(
            Diagnostic::error(span.clone(), format!("the claim {} cannot be required like this", quote(name)))
                .label("a dotted key of TOML is a table in a table")
                .help(format!("write the path in quotes: {}", quote(&format!("{}.{inner}", name.value)))),
        );
        return None;
    }
    let is_present = |(key, value): (&str, &DeValue<'_>)| key == PRESENT && value.as_bool() == Some(true);
    let mut entries = table.iter().map(|(key, value)| (key.get_ref().as_ref(), value.get_ref()));
    if entries.len() == 1 && entries.all(is_present) {
        return Some(());
    }
    note(section, name, span.clone(), "the only table that is a condition is { present = true }");
    None
}

/// Reports placeholders that the path does not have. `label` says why they are missed.
pub(super) fn check_placeholders(
    section: &Section<'_>,
    value: &Template,
    span: &Span,
    path: Option<&PathPattern>,
    label: &str,
) {
    let Some(path) = path else { return };
    let known: Vec<&str> = path.names().collect();
    for name in value.names().filter(|name| !known.contains(name)) {
        section.diagnostics.push(
            Diagnostic::error(span.clone(), format!("the path has no placeholder {}", quote(&format!("{{{name}}}"))))
                .label(label)
                .help(suggestion::help(name, &known)),
        );
    }
}

fn note(section: &Section<'_>, name: &Located<String>, span: Span, label: &str) {
    let message = format!("the claim {} cannot be required like this", quote(name));
    section.diagnostics.push(Diagnostic::error(span, message).label(label));
}
