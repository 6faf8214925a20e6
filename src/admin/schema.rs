//! The parts of the OpenAPI document that cannot be derived from the types of requests.

use serde_json::{Value, json};
use utoipa::openapi::schema::{AnyOf, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};

const IPV4_NETWORK: &str = r"^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}/([0-9]|[12][0-9]|3[0-2])$";
const IPV6_NETWORK: &str = r"^[0-9a-f]{1,4}(:[0-9a-f]{1,4}){0,5}::/([1-9]?[0-9]|1[01][0-9]|12[0-8])$";

/// Returns the schema of a close code.
pub(super) fn close_code() -> Schema {
    let integer = || ObjectBuilder::new().schema_type(Type::Integer);
    let fixed = integer().enum_values(Some([1000, 1001, 1008, 1011, 1012, 1013]));
    any_of([fixed, integer().minimum(Some(3000)).maximum(Some(4999))])
}

/// Returns the schema of a close code that may be null.
pub(super) fn close_code_or_null() -> Schema {
    or_null(close_code())
}

/// Returns the schema of an address or a network.
pub(super) fn address() -> Schema {
    let string = || ObjectBuilder::new().schema_type(Type::String);
    any_of([
        string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Ipv4))),
        string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Ipv6))),
        string().pattern(Some(IPV4_NETWORK)),
        string().pattern(Some(IPV6_NETWORK)),
    ])
}

/// Returns the schema of an address or a network that may be null.
pub(super) fn address_or_null() -> Schema {
    or_null(address())
}

fn any_of(items: impl IntoIterator<Item = ObjectBuilder>) -> Schema {
    let mut schema = AnyOf::new();
    schema.items = items.into_iter().map(|item| item.build().into()).collect();
    Schema::AnyOf(schema)
}

fn or_null(schema: Schema) -> Schema {
    let mut either = AnyOf::new();
    either.items = vec![schema.into(), ObjectBuilder::new().schema_type(Type::Null).build().into()];
    Schema::AnyOf(either)
}

/// Adds the rules about several fields of a body: a filter is not empty, a message is either text or binary, a
/// revocation has one claim, and a change of a server has one setting at least.
pub(super) fn add_rules(document: &mut Value) {
    let given = |name: &str| json!({ "required": [name], "properties": { name: { "not": { "type": "null" } } } });
    let is_true = json!({ "required": ["all"], "properties": { "all": { "const": true } } });
    let mut fields: Vec<Value> =
        ["id", "route", "auth", "subject", "address", "upstream", "server", "search"].map(given).to_vec();
    fields.push(is_true.clone());
    let selects = json!([{ "required": ["filter"], "properties": { "filter": { "anyOf": fields } } }, is_true]);
    let only = |name: &str, other: &str| {
        json!({
            "required": [name],
            "properties": { name: { "not": { "type": "null" } }, other: { "type": "null" } }
        })
    };
    let claim = |name: &str, others: [&str; 2], required: &[&str]| {
        json!({
            "required": required,
            "properties": {
                name: { "not": { "type": "null" } }, others[0]: { "type": "null" }, others[1]: { "type": "null" },
            }
        })
    };
    let mut subject = claim("subject", ["jti", "sid"], &["subject", "auth"]);
    subject["properties"]["auth"] = json!({ "not": { "type": "null" } });
    let claims =
        json!([subject, claim("jti", ["subject", "sid"], &["jti"]), claim("sid", ["subject", "jti"], &["sid"])]);
    for (schema, rule, items) in [
        ("NewRevocation", "oneOf", claims),
        ("Close", "anyOf", selects.clone()),
        ("Send", "anyOf", selects),
        ("ServerSettings", "anyOf", json!([given("state"), given("weight")])),
        ("Send", "oneOf", json!([only("text", "binary"), only("binary", "text")])),
    ] {
        if let Some(schema) =
            document.pointer_mut(&format!("/components/schemas/{schema}")).and_then(Value::as_object_mut)
        {
            schema.insert(rule.to_owned(), items);
        }
    }
}
