//! The digest of the parts of a configuration that all nodes of a cluster should have in common.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};
use toml::de::{DeTable, DeValue};

/// The sections that nodes should have in common. Others name addresses and files of one machine.
const COMMON: [&str; 3] = ["auth", "route", "upstream"];
/// The length of the digest: 64 bits.
const BYTES: usize = 8;

/// Returns the digest of the routes, upstreams and `[auth]` sections of a configuration, in hexadecimal digits. Comments,
/// spaces, and the order of keys do not change it.
pub fn digest(text: &str) -> String {
    let mut context = Context::new(&SHA256);
    if let Ok(document) = DeTable::parse(text) {
        let tables = document.get_ref().iter().filter(|(name, _)| COMMON.contains(&name.get_ref().as_ref()));
        add_all(&mut context, tables.map(|(name, value)| (name.get_ref().as_ref(), value.get_ref())).collect());
    }
    context.finish().as_ref().iter().take(BYTES).fold(String::new(), |mut hex, byte| {
        // Writing to a string never fails.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn add_all(context: &mut Context, mut entries: Vec<(&str, &DeValue<'_>)>) {
    entries.sort_by_key(|(name, _)| *name);
    add_count(context, b't', entries.len());
    for (name, value) in entries {
        add_text(context, b'k', name);
        add(context, value);
    }
}

/// Adds a value with its type and length, so that different values are never added as the same bytes.
fn add(context: &mut Context, value: &DeValue<'_>) {
    match value {
        DeValue::String(text) => add_text(context, b's', text),
        DeValue::Integer(integer) => add_text(context, b'i', &format!("{} {}", integer.radix(), integer.as_str())),
        DeValue::Float(float) => add_text(context, b'f', float.as_str()),
        DeValue::Boolean(flag) => add_text(context, b'b', if *flag { "1" } else { "0" }),
        DeValue::Datetime(time) => add_text(context, b'd', &time.to_string()),
        DeValue::Array(items) => {
            add_count(context, b'a', items.len());
            items.iter().for_each(|item| add(context, item.get_ref()));
        }
        DeValue::Table(table) => {
            add_all(context, table.iter().map(|(name, value)| (name.get_ref().as_ref(), value.get_ref())).collect());
        }
    }
}

fn add_text(context: &mut Context, kind: u8, text: &str) {
    add_count(context, kind, text.len());
    context.update(text.as_bytes());
}

fn add_count(context: &mut Context, kind: u8, count: usize) {
    context.update(&[kind]);
    context.update(&count.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nodes_have_in_common_changes_the_digest() {
        let base =
            "[server]\nworkers = 1\n[upstream.a]\nservers = [\"x:1\"]\n[[route]]\npath = \"/\"\nupstream = \"a\"\n";
        let same = "[[route]]\nupstream = \"a\" # a comment\npath = \"/\"\n[upstream.a]\nservers = ['x:1']\n";
        assert_eq!(digest(base), digest(same));
        assert_eq!(digest(base).len(), 2 * BYTES);
        for other in [
            base.replace("x:1", "x:2"),
            base.replace("\"/\"", "\"/b\""),
            base.replace("[\"x:1\"]", "[\"x:1\", \"x:2\"]"),
            format!("{base}http = true\n"),
            format!("{base}[auth.users]\n"),
        ] {
            assert_ne!(digest(base), digest(&other), "{other}");
        }
    }
}
