//! The name by which a configuration refers to a claim: a top-level member, a dotted path, or a JSON pointer.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a claim in a configuration.
///
/// - A name that begins with `/` is a JSON pointer (RFC 6901): `/resource_access/chat.web/roles`, `/emails/0`. It finds
///   at most one value, whatever the names in the token are.
/// - Any other name is the top-level member of exactly this name: `sub`, `cognito:groups`,
///   `https://example.com/roles`. A name with dots is also a path: `realm_access.roles` is the member `roles` of the
///   object `realm_access`. If a token has a value at both, and the values differ, the claim is ambiguous: it counts as
///   one that cannot be represented, and no requirement on it is met.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimPath {
    text: Arc<str>,
    /// The names of the members on the way, decoded. There is at least one.
    steps: Arc<[Box<str>]>,
}

/// Why a text is not the name of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimPathError {
    /// The name is empty.
    Empty,
    /// A `~` of a JSON pointer is not part of `~0` or `~1` (RFC 6901 section 3).
    Escape,
    /// The path has more than [`STEPS_MAX`] steps.
    TooDeep,
}

impl fmt::Display for ClaimPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the claim has no name"),
            Self::Escape => f.write_str("in a JSON pointer `~` is written `~0`, and `/` within a name `~1`"),
            Self::TooDeep => write!(f, "the path has more than {STEPS_MAX} steps"),
        }
    }
}

impl std::error::Error for ClaimPathError {}

impl FromStr for ClaimPath {
    type Err = ClaimPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let steps: Vec<Box<str>> = match text.strip_prefix('/') {
            _ if text.is_empty() => return Err(ClaimPathError::Empty),
            Some(pointer) => pointer.split('/').map(unescaped).collect::<Result<_, _>>()?,
            None => text.split('.').map(Box::from).collect(),
        };
        if steps.len() > STEPS_MAX {
            return Err(ClaimPathError::TooDeep);
        }
        Ok(Self { text: text.into(), steps: steps.into() })
    }
}

impl ClaimPath {
    /// Returns the path of a registered claim, whose name contains neither `/` nor dots.
    pub fn registered(name: &'static str) -> Self {
        debug_assert!(!name.contains(['/', '.']));
        Self { text: name.into(), steps: [name.into()].into() }
    }

    /// Returns the name as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the name as it was written, to share it.
    pub(super) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether the name is a JSON pointer, whose steps can be indexes of arrays.
    pub(super) fn is_pointer(&self) -> bool {
        self.text.starts_with('/')
    }

    /// Returns the top-level member that the whole name refers to, if it can refer to one.
    pub(super) fn member(&self) -> Option<&str> {
        match &*self.steps {
            [only] => Some(only),
            _ if self.is_pointer() => None,
            _ => Some(&self.text),
        }
    }

    /// Returns the steps from the claims to a nested member. Empty if the name can refer only to a top-level member.
    pub(super) fn nested_steps(&self) -> &[Box<str>] {
        if self.steps.len() > 1 { &self.steps } else { &[] }
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Decodes a reference token of a JSON pointer (RFC 6901 section 4).
fn unescaped(token: &str) -> Result<Box<str>, ClaimPathError> {
    let mut parts = token.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (character, rest) = match part.as_bytes() {
            [b'0', ..] => ('~', part.get(1..)),
            [b'1', ..] => ('/', part.get(1..)),
            _ => return Err(ClaimPathError::Escape),
        };
        text.push(character);
        text.push_str(rest.unwrap_or_default());
    }
    Ok(text.into())
}

/// Returns the index of an array element that a reference token of a JSON pointer names (RFC 6901 section 4): digits
/// without a leading zero. `-`, the element after the last, does not exist.
pub(super) fn element_index(token: &str) -> Option<usize> {
    let is_index = token == "0" || !token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit());
    token.parse().ok().filter(|_| is_index)
}

/// The maximum number of steps of a path.
pub const STEPS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Option<String>, Vec<String>) {
        let path: ClaimPath = text.parse().unwrap();
        assert_eq!(path.as_str(), text);
        let steps = path.nested_steps().iter().map(ToString::to_string).collect();
        (path.member().map(str::to_owned), steps)
    }

    #[test]
    fn names_refer_to_members_and_paths() {
        let cases: [(&str, Option<&str>, &[&str]); 13] = [
            ("sub", Some("sub"), &[]),
            ("cognito:groups", Some("cognito:groups"), &[]),
            ("a.b.c", Some("a.b.c"), &["a", "b", "c"]),
            ("https://example.com/r", Some("https://example.com/r"), &["https://example", "com/r"]),
            ("a~b", Some("a~b"), &[]),
            (".", Some("."), &["", ""]),
            ("/sub", Some("sub"), &[]),
            ("/a.b", Some("a.b"), &[]),
            ("/a/b", None, &["a", "b"]),
            ("/https:~1~1example.com~1r/x", None, &["https://example.com/r", "x"]),
            // RFC 6901 section 4: `~01` is the name `~1`.
            ("/~01", Some("~1"), &[]),
            ("/", Some(""), &[]),
            ("/a//0", None, &["a", "", "0"]),
        ];
        for (text, member, steps) in cases {
            let expected = (member.map(str::to_owned), steps.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_rejected() {
        let cases = [
            ("", ClaimPathError::Empty),
            ("/~", ClaimPathError::Escape),
            ("/a~2", ClaimPathError::Escape),
            ("/~~0", ClaimPathError::Escape),
            ("/a/~é", ClaimPathError::Escape),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<ClaimPath>(), Err(error), "{text}");
        }
        assert!("/x".repeat(STEPS_MAX).parse::<ClaimPath>().is_ok());
        assert_eq!("/x".repeat(STEPS_MAX + 1).parse::<ClaimPath>(), Err(ClaimPathError::TooDeep));
        assert_eq!("x.".repeat(STEPS_MAX).parse::<ClaimPath>(), Err(ClaimPathError::TooDeep));
    }

    #[test]
    fn an_index_is_digits_without_a_leading_zero() {
        for (token, expected) in [("0", Some(0)), ("1", Some(1)), ("120", Some(120))] {
            assert_eq!(element_index(token), expected, "{token}");
        }
        for token in ["", "-", "-1", "+1", "00", "01", "1.0", "1e0", " 1", "99999999999999999999999"] {
            assert_eq!(element_index(token), None, "{token}");
        }
    }
}
