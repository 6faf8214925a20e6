//! The JSON Schema (draft 2020-12) of the configuration file, derived from the table of keys.
//!
//! A schema cannot express rules between keys, bounds of texts with units, or what a file contains. It accepts every
//! file that [`super::check`] accepts.

use serde_json::{Map, Value, json};
use toml::de::DeValue;

use super::keys::{self, AllowsOff, Default, KEYS, Key, Kind, SECTIONS, SectionForm};
use super::units;

/// Sections without which a file is rejected. The table of keys does not say it.
const REQUIRED_SECTIONS: [&str; 2] = ["listener", "route"];

/// Returns the schema.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table("");
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of tollgate. An editor's help: `tollgate check` decides whether a file is valid.",
    });
    merge(&mut schema, head);
    schema
}

/// Returns the schema of one table of a section: its keys and its subsections, and no others. `""` is the file itself.
fn table(name: &str) -> Value {
    let keys = || KEYS.iter().filter(|key| key.section == name);
    let sections = || SECTIONS.iter().filter(|form| split(form).0 == name);
    let properties: Map<String, Value> = sections()
        .map(|form| (split(form).1.to_owned(), section(form)))
        .chain(keys().map(|key| (key.name.to_owned(), property(key))))
        .collect();
    let required_keys = keys().filter(|key| key.default == Default::Required).map(|key| key.name);
    let required_sections = sections().filter(|form| is_required(form)).map(|form| split(form).1);
    let required: Vec<&str> = required_sections.chain(required_keys).collect();

    let mut table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        merge(&mut table, json!({ "required": required }));
    }
    if name == "upstream" {
        let lists = [&keys::SERVERS, &keys::DISCOVER].map(|key| json!({ "required": [key.name] }));
        merge(&mut table, json!({ "anyOf": lists }));
    }
    table
}

/// Returns the name of the parent section, and the section's own name in it.
fn split(form: &SectionForm) -> (&'static str, &'static str) {
    form.name.rsplit_once('.').unwrap_or(("", form.name))
}

fn is_required(form: &SectionForm) -> bool {
    REQUIRED_SECTIONS.contains(&form.name)
}

/// Returns the schema of a section in the form in which it is written: one table, a list of tables, or tables by name.
fn section(form: &SectionForm) -> Value {
    let table = table(form.name);
    if form.written.starts_with("[[") {
        json!({ "type": "array", "items": table, "minItems": u8::from(is_required(form)) })
    } else if form.written.ends_with(".NAME]") {
        json!({ "type": "object", "additionalProperties": table })
    } else {
        table
    }
}

/// Returns the schema of the value of a key, with its description, bounds and default.
fn property(key: &Key) -> Value {
    let mut property = form_of(key);
    let mut description = vec![key.doc.to_owned()];
    let bounds = key.bounds();
    if !bounds.is_empty() {
        description.push(format!("{bounds}."));
    }
    match key.default {
        Default::Required | Default::Nothing => {}
        Default::Value(text) => {
            // A test checks that every default can be expressed.
            if let Some(value) = DeValue::parse(text).ok().and_then(|value| json_of(value.get_ref())) {
                merge(&mut property, json!({ "default": value }));
            }
        }
        Default::Derived(words) => description.push(format!("Default: {words}.")),
    }
    merge(&mut property, json!({ "description": description.join(" ") }));
    property
}

/// Returns the schema of the values that a key can have.
fn form_of(key: &Key) -> Value {
    let text = |pattern: String| json!({ "type": "string", "pattern": pattern });
    let (form, off) = match key.kind {
        Kind::Text | Kind::File => (json!({ "type": "string" }), AllowsOff::Refused),
        Kind::TextOrList => {
            let list = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
            (json!({ "anyOf": [{ "type": "string" }, list] }), AllowsOff::Refused)
        }
        Kind::StringList => (json!({ "type": "array", "items": { "type": "string" } }), AllowsOff::Refused),
        Kind::Choice(words) => (json!({ "type": "string", "enum": words }), AllowsOff::Refused),
        Kind::Flag => (json!({ "type": "boolean" }), AllowsOff::Refused),
        Kind::Integer(min, max, off) => (json!({ "type": "integer", "minimum": min, "maximum": max }), off),
        Kind::Duration(_, _, off) => (text(units::duration_pattern()), off),
        Kind::Size(_, _, off) => (text(units::size_pattern()), off),
        Kind::Rate(_, off) => (text(units::rate_pattern()), off),
        Kind::ByteRate(_, _, off) => (text(units::byte_rate_pattern()), off),
        Kind::Percent(off) => (text(units::percent_pattern()), off),
        Kind::PercentRate(off) => (text(units::percent_rate_pattern()), off),
        Kind::Table => (json!({ "type": "object", "additionalProperties": { "type": "string" } }), AllowsOff::Refused),
        Kind::Conditions => (json!({ "type": "object", "additionalProperties": condition() }), AllowsOff::Refused),
        Kind::TextsOrTables => {
            let inner = table(&format!("{}.{}", key.section, key.name));
            let items = json!({ "anyOf": [{ "type": "string" }, inner] });
            (json!({ "type": "array", "items": items }), AllowsOff::Refused)
        }
        Kind::InnerTable => (table(&format!("{}.{}", key.section, key.name)), AllowsOff::Refused),
        Kind::TableArray => {
            let items = table(&format!("{}.{}", key.section, key.name));
            (json!({ "type": "array", "items": items }), AllowsOff::Refused)
        }
    };
    match off {
        AllowsOff::Allowed => json!({ "anyOf": [form, { "const": "off" }] }),
        AllowsOff::Refused => form,
    }
}

/// Returns the schema of a condition on a claim.
fn condition() -> Value {
    let value = json!({ "type": ["string", "number", "boolean"] });
    let present = json!({
        "type": "object",
        "properties": { "present": { "const": true } },
        "required": ["present"],
        "additionalProperties": false,
    });
    json!({ "anyOf": [value, { "type": "array", "items": value, "minItems": 1 }, present] })
}

/// Converts a value of the file. `None` if JSON cannot express it.
fn json_of(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => json!(text),
        DeValue::Integer(number) => json!(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => json!(number.as_str().parse::<f64>().ok()?),
        DeValue::Boolean(flag) => json!(flag),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => items.iter().map(|item| json_of(item.get_ref())).collect::<Option<Value>>()?,
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(name, value)| Some((name.get_ref().to_string(), json_of(value.get_ref())?)));
            Value::Object(pairs.collect::<Option<_>>()?)
        }
    })
}

/// Adds the members of one object to another.
fn merge(object: &mut Value, members: Value) {
    if let (Some(object), Value::Object(members)) = (object.as_object_mut(), members) {
        object.extend(members);
    }
}

#[cfg(test)]
mod tests;
