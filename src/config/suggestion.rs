//! Suggestions for a mistyped name: the closest known name, or the section to which the name belongs.

use super::keys::{KEYS, SECTIONS};

/// Returns the header of a section as it is written in the file, such as `[[route]]`.
pub(super) fn section(name: &str) -> Option<&'static str> {
    SECTIONS.iter().find(|form| form.name == name).map(|form| form.written)
}

/// Returns a hint for a name that is unknown in its section but known in another one.
fn elsewhere(name: &str) -> Option<String> {
    let nested = SECTIONS.iter().find(|form| form.name.rsplit_once('.').is_some_and(|(_, last)| last == name));
    if let Some((form, (parent, _))) = nested.and_then(|form| Some((form, form.name.rsplit_once('.')?))) {
        let parent = section(parent).unwrap_or(parent);
        return Some(format!("write `{}`, below the `{parent}` that it is for", form.written));
    }
    let found: Vec<&str> =
        KEYS.iter().filter(|key| key.name == name).map(|key| section(key.section).unwrap_or(key.section)).collect();
    (!found.is_empty()).then(|| format!("`{name}` is a key of {}", list(&found)))
}

/// Returns the help text for an unknown key: the closest known key, the sections that have the key, or else every known
/// key of this section. A section is shown as it is written in the file.
pub(super) fn help_for_key(of: &str, name: &str, known: &[&'static str]) -> String {
    let near = nearest(name, known.iter().copied()).map(|near| {
        let full = if of.is_empty() { near.to_owned() } else { format!("{of}.{near}") };
        format!("did you mean `{}`?", section(&full).unwrap_or(near))
    });
    match (near, elsewhere(name)) {
        (Some(near), Some(elsewhere)) => format!("{near} {elsewhere}"),
        (Some(help), None) | (None, Some(help)) => help,
        (None, None) => help(name, known),
    }
}

/// Returns the candidate with the smallest edit distance from `name`, if it is small enough for a typing error.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Known names are short: a long name is not a typing error, and comparing it is expensive.
    if name.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::levenshtein(name, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Returns the help text for an unknown name: the closest known name, or else every known name.
pub(super) fn help(name: &str, candidates: &[&str]) -> String {
    match nearest(name, candidates.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if candidates.is_empty() => "none of this kind is defined".to_owned(),
        None => format!("expected one of {}", list(candidates)),
    }
}

/// Formats a list of names, of which it shows at most 20: `a`, `b` and 3 more.
pub(super) fn list(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 20;
    let shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_section_is_found() {
        let table = [
            ("limits", Some("write `[route.limits]`, below the `[[route]]` that it is for")),
            ("message_rate", Some("`message_rate` is a key of `[route.limits]`")),
            ("path", Some("`path` is a key of `[upstream.NAME]`, `upstream.cookie`, `[[route]]`")),
            ("chain", Some("`chain` is a key of `listener.certificates`")),
            ("nonsense", None),
        ];
        for (name, expected) in table {
            assert_eq!(elsewhere(name).as_deref(), expected, "{name}");
        }
        assert_eq!(help_for_key("", "routes", &["log", "route"]), "did you mean `[[route]]`?");
        assert_eq!(help_for_key("log", "levl", &["level"]), "did you mean `level`?");
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["server", "log", "listener"];
        assert_eq!(nearest("listner", known), Some("listener"));
        assert_eq!(nearest("servers", known), Some("server"));
        assert_eq!(nearest("upstream", known), None);
    }
}
