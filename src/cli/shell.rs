//! Quotes text for a shell.

use std::path::Path;

/// Quotes a path for a POSIX shell, unless it needs no quotes.
pub fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte)) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_characters_with_a_meaning_are_quoted() {
        for (path, expected) in [
            ("/run/tollgate/admin.sock", "/run/tollgate/admin.sock"),
            ("/tmp/a b", "'/tmp/a b'"),
            ("it's", "'it'\\''s'"),
            ("$(id)", "'$(id)'"),
            ("", "''"),
        ] {
            assert_eq!(quote(Path::new(path)), expected);
        }
    }
}
