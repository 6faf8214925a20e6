//! The files of `config/recipes`: each loads without an error or a warning, and the suite `recipes` runs it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{parse, parse_as};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the recipes with their names, sorted.
fn recipes() -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join("config/recipes")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !path.ends_with("README.md"));
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.into_iter().map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn each_recipe_loads() {
    let recipes = recipes();
    assert!(recipes.len() > 1, "{} recipes", recipes.len());
    for (name, text) in recipes {
        let config = parse_as(&name, &text).unwrap_or_else(|report| panic!("{report}"));
        assert!(config.warnings.is_empty(), "{name}: {}", config.warnings);
        assert!(text.starts_with("# "), "{name} begins with its purpose");
    }
}

/// A commented setting is one that a reader turns on.
#[test]
fn each_commented_setting_of_a_recipe_loads() {
    for (name, text) in recipes() {
        for (line, written) in text.lines().enumerate() {
            let Some(setting) = written.strip_prefix("# ").filter(|setting| setting.contains(" = ")) else { continue };
            if !setting.split(" = ").next().unwrap().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                continue;
            }
            let changed = super::with_line(&text, line, setting);
            parse(&changed).unwrap_or_else(|report| panic!("{name}:{}: {report}", line + 1));
        }
    }
}

#[test]
fn the_suite_runs_each_recipe_and_the_table_names_it() {
    let table = fs::read_to_string(root().join("config/recipes/README.md")).unwrap();
    let suites: String = fs::read_dir(root().join("tests/interop"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("recipes_"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for (name, _) in recipes() {
        assert!(table.contains(&format!("| [`{name}`]({name}) |")), "config/recipes/README.md does not name {name}");
        let name = name.strip_suffix(".toml").unwrap_or_else(|| panic!("{name} is no configuration"));
        assert!(suites.contains(&format!("\"{name}\": ")), "no suite runs config/recipes/{name}.toml");
    }
}
