use std::collections::BTreeSet;

use super::*;

/// Returns the schema of the tables of a section, and fails if the section is not in the schema.
fn schema_of<'a>(schema: &'a Value, section: &str) -> &'a Value {
    let mut at = schema;
    for name in section.split('.') {
        at = &at["properties"][name];
        assert!(at.is_object(), "{section} is missing");
        if at["type"] == "array" {
            at = &at["items"];
            if at["anyOf"].is_array() {
                at = &at["anyOf"][1];
            }
        } else if at["additionalProperties"].is_object() {
            at = &at["additionalProperties"];
        }
    }
    at
}

#[test]
fn every_key_is_in_the_schema_of_its_section() {
    let schema = schema();
    for key in KEYS {
        let section = schema_of(&schema, key.section);
        let property = &section["properties"][key.name];
        let description = property["description"].as_str().unwrap();
        assert!(description.contains(key.doc) && description.contains(&key.bounds()), "{description}");
        assert_eq!(section["additionalProperties"], false);
        let required = section["required"].as_array().is_some_and(|names| names.contains(&key.name.into()));
        assert_eq!(required, key.default == Default::Required, "{}", key.name);
        match key.default {
            Default::Value(text) => assert!(!property["default"].is_null(), "{}: {text}", key.name),
            _ => assert!(property["default"].is_null(), "{}", key.name),
        }
    }
}

#[test]
fn the_schema_has_nothing_but_keys_and_sections() {
    let schema = schema();
    let names = |section: &str| schema_of(&schema, section)["properties"].as_object().unwrap().len();
    let sections: BTreeSet<&str> =
        SECTIONS.iter().map(|form| form.name).chain(KEYS.iter().map(|key| key.section)).collect();
    let inner = SECTIONS.iter().filter(|form| form.name.contains('.')).count();
    assert_eq!(sections.into_iter().map(names).sum::<usize>(), KEYS.len() + inner);
    let top: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let mut sections: Vec<&str> = SECTIONS.iter().map(|form| form.name).filter(|name| !name.contains('.')).collect();
    sections.sort_unstable();
    assert_eq!(top, sections);
}

#[test]
fn a_section_has_the_form_in_which_it_is_written() {
    let schema = schema();
    let at = |name: &str| &schema["properties"][name];
    assert_eq!(at("server")["additionalProperties"], false);
    assert_eq!(at("listener")["type"], "array");
    assert_eq!(at("auth")["additionalProperties"]["type"], "object");
    assert_eq!(at("route")["items"]["properties"]["limits"]["additionalProperties"], false);
}

#[test]
fn kinds_have_their_constraints() {
    let schema = schema();
    let at = |section: &str, name: &str| schema_of(&schema, section)["properties"][name].clone();
    assert_eq!(at("server", "workers")["maximum"], 1024);
    assert_eq!(at("log", "format")["enum"], json!(["json", "text"]));
    assert_eq!(at("server", "drain_timeout")["pattern"], "^[0-9]+(d|h|m|s|ms)$");
    assert_eq!(at("listener", "head_max_size")["pattern"], "^[0-9]+(GiB|MiB|KiB|B)$");
    assert_eq!(at("route.limits", "overhead_rate")["pattern"], "^[0-9]+/(s|m|h)$");
    let off = json!([{ "type": "string", "pattern": "^[0-9]+/(s|m|h)$" }, { "const": "off" }]);
    assert_eq!(at("route.limits", "message_rate")["anyOf"], off);
    let off = json!([{ "type": "string", "pattern": "^[0-9]+%$" }, { "const": "off" }]);
    assert_eq!(at("server", "recheck_max")["anyOf"], off);
    assert_eq!(at("auth", "token_from")["default"], json!(["header"]));
    assert_eq!(at("route", "require")["default"], json!({}));
    assert_eq!(schema_of(&schema, "listener.certificates")["required"], json!(["chain", "key"]));
}

#[test]
fn a_file_without_a_required_section_is_rejected() {
    let schema = schema();
    assert_eq!(schema["required"], json!(REQUIRED_SECTIONS));
    let report = crate::config::parse(
        "",
        std::path::Path::new("tollgate.toml"),
        std::path::Path::new(""),
        &crate::config::tests::InMemory::new(),
    )
    .unwrap_err()
    .to_string();
    for name in REQUIRED_SECTIONS {
        assert!(report.contains(&format!("[[{name}]]")), "{name}: {report}");
    }
}
