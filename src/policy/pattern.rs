//! Matches paths against patterns such as `/ws/{room}`, and returns the values of the placeholders.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::path::{self, Path, PathError};

/// A path with placeholders: `/ws/{room}`, `/files/{*rest}`.
///
/// `{name}` matches exactly one segment that is not empty. `{*name}`, which must be last, matches the remaining
/// segments, even if there are none: `/files/{*rest}` matches `/files`, `/files/` and `/files/a/b`, with `""`, `""` and
/// `a/b` for `rest`. Every other segment is a literal, which is decoded like the path of a request and compared byte by
/// byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<SegmentPattern>,
}

/// The pattern of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SegmentPattern {
    Literal(Box<str>),
    One(Arc<str>),
    Rest(Arc<str>),
}

impl PathPattern {
    /// Returns the names of the placeholders, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(SegmentPattern::name)
    }

    /// Whether both patterns match exactly the same paths, regardless of the names of placeholders.
    #[must_use]
    pub fn same_shape(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }

    /// Whether it matches the one path of a pattern without placeholders, and not because of a `{*name}`.
    #[must_use]
    pub fn names_path(&self, path: &Self) -> bool {
        let matches = |(own, other): (&SegmentPattern, &SegmentPattern)| match (own, other) {
            (SegmentPattern::One(_), SegmentPattern::Literal(literal)) => !literal.is_empty(),
            (SegmentPattern::Literal(own), SegmentPattern::Literal(other)) => own == other,
            _ => false,
        };
        self.segments.len() == path.segments.len() && self.segments.iter().zip(&path.segments).all(matches)
    }

    /// Returns the number of segments of this prefix of the pattern; `None` if the pattern does not begin with it,
    /// under the same names of placeholders. A prefix does not end with `/`, and has no `{*name}`.
    #[must_use]
    pub fn prefix_len(&self, prefix: &Self) -> Option<usize> {
        let is_whole = prefix.segments.last().is_some_and(|last| match last {
            SegmentPattern::Literal(literal) => !literal.is_empty(),
            SegmentPattern::One(_) => true,
            SegmentPattern::Rest(_) => false,
        });
        (is_whole && self.segments.starts_with(&prefix.segments)).then_some(prefix.segments.len())
    }

    /// Returns the values of the placeholders in a path; `None` if the path does not match.
    #[must_use]
    pub fn matches(&self, path: &Path) -> Option<Params> {
        let mut segments = path.segments();
        let mut values = Vec::new();
        for piece in &self.segments {
            if let SegmentPattern::Rest(name) = piece {
                values.push((Arc::clone(name), segments.join("/")));
                return Some(Params::new(values));
            }
            let (segment, left) = segments.split_first()?;
            segments = left;
            match piece {
                SegmentPattern::One(name) if !segment.is_empty() => values.push((Arc::clone(name), segment.clone())),
                SegmentPattern::Literal(literal) if **literal == **segment => {}
                _ => return None,
            }
        }
        segments.is_empty().then(|| Params::new(values))
    }

    /// Compares patterns segment by segment, regardless of the names of placeholders: a literal sorts before `{name}`,
    /// and that before `{*name}`. A pattern sorts before its extensions, which [`Routes`](super::route::Routes) relies
    /// on.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        fn key(piece: &SegmentPattern) -> (u8, &str) {
            match piece {
                SegmentPattern::Literal(literal) => (0, literal),
                SegmentPattern::One(_) => (1, ""),
                SegmentPattern::Rest(_) => (2, ""),
            }
        }
        self.segments.iter().map(key).cmp(other.segments.iter().map(key))
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut segments: Vec<SegmentPattern> = Vec::new();
        for segment in path::split(text).map_err(PathPatternError::Path)? {
            if let Some(SegmentPattern::Rest(name)) = segments.last() {
                return Err(PathPatternError::RestNotLast(Arc::clone(name)));
            }
            let piece: SegmentPattern = segment.parse()?;
            match piece.name() {
                Some(name) if segments.iter().any(|earlier| earlier.name() == Some(name)) => {
                    return Err(PathPatternError::NameTwice(name.into()));
                }
                _ => segments.push(piece),
            }
        }
        Ok(Self { segments })
    }
}

impl SegmentPattern {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::One(name) | Self::Rest(name) => Some(name),
        }
    }
}

impl FromStr for SegmentPattern {
    type Err = PathPatternError;

    fn from_str(segment: &str) -> Result<Self, Self::Err> {
        // Other software reads these as wildcards. As literals they would make a route that no client requests.
        if matches!(segment, "*" | "**") {
            return Err(PathPatternError::Star);
        }
        if !segment.contains(['{', '}']) {
            return Ok(Self::Literal(path::decode(segment).map_err(PathPatternError::Path)?.into()));
        }
        let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let inner = inner.filter(|inner| !inner.contains(['{', '}'])).ok_or(PathPatternError::PartOfSegment)?;
        let name = inner.strip_prefix('*').unwrap_or(inner);
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.bytes().all(word) || !name.starts_with(|first: char| !first.is_ascii_digit()) {
            return Err(PathPatternError::Name(name.into()));
        }
        Ok(if name == inner { Self::One(name.into()) } else { Self::Rest(name.into()) })
    }
}

/// Why a path pattern is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPatternError {
    /// The path would be rejected in a request.
    Path(PathError),
    /// A segment is `*` or `**`.
    Star,
    /// A placeholder is not a whole segment, or its braces do not pair.
    PartOfSegment,
    /// A placeholder's name is not a letter or `_` followed by letters, digits and `_`.
    Name(Arc<str>),
    /// Two placeholders have this name.
    NameTwice(Arc<str>),
    /// A segment follows the placeholder of this name, which matches the rest of the path.
    RestNotLast(Arc<str>),
}

impl fmt::Display for PathPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(error) => error.fmt(f),
            Self::Star => f.write_str("write `{name}` to match one segment, or `{*name}` at the end to match the rest"),
            Self::PartOfSegment => f.write_str("a placeholder is a whole segment, as in `/ws/{room}`"),
            Self::Name(name) => {
                write!(f, "`{name}` is not a name for a placeholder: use letters, digits and `_`, and no digit first")
            }
            Self::NameTwice(name) => write!(f, "two placeholders have the name `{name}`"),
            Self::RestNotLast(name) => write!(f, "`{{*{name}}}` takes the rest of the path, so nothing follows it"),
        }
    }
}

impl std::error::Error for PathPatternError {}

/// The values of the placeholders of a route's pattern, taken from a request's path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    values: Vec<(Arc<str>, String)>,
}

impl Params {
    /// Creates the values from the name of each placeholder, without duplicates, and its decoded value.
    #[must_use]
    pub fn new(values: Vec<(Arc<str>, String)>) -> Self {
        Self { values }
    }

    /// Whether there are at most `max` values, and they and their names have at most `max_bytes` each in total.
    pub(super) fn is_bounded(&self, max: usize, max_bytes: usize) -> bool {
        let sum = |len: fn(&(Arc<str>, String)) -> usize| self.values.iter().map(len).fold(0, usize::saturating_add);
        self.values.len() <= max
            && sum(|(name, _)| name.len()) <= max_bytes
            && sum(|(_, value)| value.len()) <= max_bytes
    }

    /// Returns the value of a placeholder: decoded text that the client chose. The value of `{name}` is not empty and
    /// contains no `/`. The value of `{*name}` may be empty, and each `/` in it separates two segments.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _value)| **known == *name).map(|(_name, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests;
