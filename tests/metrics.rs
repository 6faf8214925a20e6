//! The dashboard, the alerts and the README name only metrics that exist, and the README lists all of them.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tollgate::telemetry::metrics::Kind;
use tollgate::telemetry::metrics::table::{Definition, TABLE};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// Returns the names in a text that start like those of metrics.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tollgate_") || word.starts_with("process_")).collect()
}

/// Returns the names of a metric's series.
fn series(definition: &Definition) -> Vec<String> {
    let name = definition.name;
    match definition.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec(),
        Kind::Counter | Kind::Gauge => vec![name.to_owned()],
    }
}

#[test]
fn dashboard_and_alerts_name_metrics_of_the_table() {
    let known: BTreeSet<String> = TABLE.iter().flat_map(series).collect();
    for file in ["config/grafana.json", "config/alerts.yml"] {
        let text = read(file);
        let found = names(&text);
        let unknown: Vec<_> = found.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
        assert!(found.len() > 5, "{file} names only {found:?}");
    }
}

#[test]
fn the_dashboard_is_json_with_queries_in_every_panel() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("config/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(targets.iter().all(|target| !names(target["expr"].as_str().unwrap()).is_empty()), "{panel}");
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
}

/// `UPDATE_GOLDEN=1 cargo test --test metrics` writes the table of the README.
#[test]
fn the_readme_has_the_table_of_all_metrics() {
    const HEAD: &str = "| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n";
    let row = |definition: &Definition| {
        let labels: Vec<_> = definition.labels.iter().map(|label| format!("`{label}`")).collect();
        let Definition { name, kind, help, .. } = definition;
        format!("| `{name}` | {} | {} | {help} |\n", kind.label(), labels.join(", "))
    };
    let expected: String = TABLE.iter().map(row).collect();
    let readme = read("README.md");
    let (before, rest) = readme.split_once(HEAD).expect("the README has the head of the table");
    let end = rest.find("\n\n").map_or(rest.len(), |at| at + 1);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path("README.md"), format!("{before}{HEAD}{expected}{}", &rest[end..])).unwrap();
        return;
    }
    assert_eq!(&rest[..end], expected, "UPDATE_GOLDEN=1 cargo test --test metrics writes it");
}

#[test]
fn every_link_within_the_readme_has_its_heading() {
    let readme = read("README.md");
    let anchor = |heading: &str| -> String {
        let letters = heading.trim_start_matches('#').trim().to_lowercase();
        letters.chars().filter(|c| c.is_alphanumeric() || " -".contains(*c)).collect::<String>().replace(' ', "-")
    };
    let headings: BTreeSet<_> = readme.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let links = readme.split("](#").skip(1).filter_map(|rest| rest.split_once(')'));
    let links: BTreeSet<_> = links.map(|(link, _)| link.to_owned()).collect();
    assert!(links.len() > 3, "{links:?}");
    let broken: Vec<_> = links.difference(&headings).collect();
    assert!(broken.is_empty(), "{broken:?}");
}
