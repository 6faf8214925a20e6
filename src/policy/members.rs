//! Reads members of a JSON object by name: of a token's header, and of its claims.
//!
//! Only requested members are parsed. Every other value need only be JSON by its syntax, so a lone surrogate or a
//! number out of range in it is not an error. Names are compared decoded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::mem::size_of;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why an object cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectError {
    /// The text is not a JSON object, is nested too deep, or a required value cannot be represented.
    Malformed,
    /// A name occurs more than once.
    Duplicate,
}

/// The members of a JSON object, ordered by name, with the JSON text of each value.
pub(super) struct Object<'a> {
    members: Vec<(Cow<'a, [u8]>, &'a str)>,
}

impl<'a> Object<'a> {
    /// Parses a whole text. The work is linear in its length, except for the sorting of the names.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, ObjectError> {
        let json = str::from_utf8(json).map_err(|_| ObjectError::Malformed)?;
        if is_too_deep(json) {
            return Err(ObjectError::Malformed);
        }
        let object = Self::members_of(json)?;
        let repeated = object.members.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b));
        if repeated { Err(ObjectError::Duplicate) } else { Ok(object) }
    }

    fn members_of(json: &'a str) -> Result<Self, ObjectError> {
        let mut object: Self = serde_json::from_str(json).map_err(|_| ObjectError::Malformed)?;
        object.members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(object)
    }

    /// Returns the JSON text of a member.
    pub(super) fn get(&self, name: &str) -> Result<Option<&'a str>, ObjectError> {
        let start = self.members.partition_point(|(member, _)| **member < *name.as_bytes());
        let mut named = self.members.iter().skip(start).take_while(|(member, _)| **member == *name.as_bytes());
        match (named.next(), named.next()) {
            (Some(_), Some(_)) => Err(ObjectError::Duplicate),
            (first, _) => Ok(first.map(|(_, value)| *value)),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = access.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name.0, value.get()));
                }
                Ok(Object { members })
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// A member's name as bytes, since a name with a lone surrogate cannot be decoded as text.
struct Name<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_bytes<E>(self, name: &[u8]) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_vec())))
            }
        }

        deserializer.deserialize_bytes(NameVisitor)
    }
}

/// Whether arrays and objects are nested deeper than [`DEPTH_MAX`]. The JSON parser skips values without recursion, so
/// it does not limit their depth.
fn is_too_deep(json: &str) -> bool {
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// The maximum depth of nested arrays and objects.
const DEPTH_MAX: usize = 127;

/// The value of a claim, as far as it is used.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Claim {
    Null,
    Bool(bool),
    /// The JSON text: two numbers that round to the same float stay different.
    Number(Box<str>),
    Text(Box<str>),
    List(Box<[Claim]>),
    /// An object or, within a list, another list. Its contents are not used.
    Nested,
    /// A value that cannot be represented: a string with a lone surrogate, a number out of range, a list with one of
    /// these, or a member whose name occurs more than once.
    Malformed,
}

impl Claim {
    /// Parses JSON text.
    fn parse(json: &str) -> Self {
        let claim = if json.starts_with('[') { Self::list(json) } else { Self::scalar(json) };
        claim.unwrap_or(Self::Malformed)
    }

    fn list(json: &str) -> Option<Self> {
        let values: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        values.into_iter().map(|value| Self::scalar(value.get())).collect::<Option<_>>().map(Self::List)
    }

    fn scalar(json: &str) -> Option<Self> {
        Some(match json.as_bytes().first()? {
            b'"' => Self::Text(serde_json::from_str(json).ok()?),
            b'[' | b'{' => Self::Nested,
            b'n' => Self::Null,
            b't' => Self::Bool(true),
            b'f' => Self::Bool(false),
            _ => {
                serde_json::from_str::<f64>(json).ok()?;
                Self::Number(json.into())
            }
        })
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns the text of a string, and the JSON text of a number or a boolean.
    pub(super) fn scalar_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            Self::Null | Self::List(_) | Self::Nested | Self::Malformed => None,
        }
    }

    /// Returns the size of the heap memory that the value owns.
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Number(text) | Self::Text(text) => block(text.len()),
            Self::List(values) => {
                block(values.len() * size_of::<Self>()) + values.iter().map(Self::heap_bytes).sum::<usize>()
            }
            Self::Null | Self::Bool(_) | Self::Nested | Self::Malformed => 0,
        }
    }
}

/// Returns the size of an allocation: the size class of jemalloc (`man jemalloc`, "size classes").
pub(super) fn block(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=8 => 8,
        9..=128 => bytes.next_multiple_of(16),
        // There are four classes between one power of two and the next.
        _ => bytes.next_multiple_of(bytes.checked_next_power_of_two().unwrap_or(bytes) / 8),
    }
}

/// The names of the claims that a verifier keeps.
#[derive(Debug)]
pub(super) struct Wanted(Vec<WantedName>);

#[derive(Debug)]
struct WantedName {
    name: Arc<str>,
    judged: bool,
}

impl Wanted {
    /// Creates the list. A `judged` claim that cannot be represented is an error. A claim that is only `kept` becomes
    /// [`Claim::Malformed`] instead, and the routes that use it reject the request.
    pub(super) fn new<'a>(judged: impl IntoIterator<Item = &'a str>, kept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: BTreeMap<&str, bool> = kept.into_iter().map(|name| (name, false)).collect();
        names.extend(judged.into_iter().map(|name| (name, true)));
        Self(names.into_iter().map(|(name, judged)| WantedName { name: name.into(), judged }).collect())
    }
}

/// The kept claims of one token, ordered by requested name.
#[derive(PartialEq)]
pub(super) struct Members(Box<[(Arc<str>, Claim)]>);

impl Members {
    /// Reads the wanted claims of a payload. A claim with the whole name takes precedence: collision-resistant names
    /// are often URLs and contain dots (RFC 7519 section 4.2). Otherwise `realm.role` is the member `role` of the
    /// object `realm`.
    pub(super) fn parse(payload: &[u8], wanted: &Wanted) -> Result<Self, ObjectError> {
        let object = Object::parse(payload)?;
        let mut found = Vec::new();
        let mut within: BTreeMap<&str, Paths<'_>> = BTreeMap::new();
        for name in &wanted.0 {
            if let Some(json) = object.get(&name.name)? {
                found.push((name, Some(json)));
            } else if let Some((first, rest)) = name.name.split_once('.') {
                within.entry(first).or_default().push((name, rest));
            }
        }
        for (first, paths) in within {
            if let Some(json) = object.get(first)? {
                find_within(json, &paths, &mut found);
            }
        }
        let mut members = Vec::with_capacity(found.len());
        for (name, json) in found {
            let claim = json.map_or(Claim::Malformed, Claim::parse);
            if name.judged && claim == Claim::Malformed {
                return Err(ObjectError::Malformed);
            }
            members.push((Arc::clone(&name.name), claim));
        }
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Self(members.into_boxed_slice()))
    }

    /// Creates the claims from names and values.
    pub(super) fn of_pairs(pairs: impl Iterator<Item = (Arc<str>, Claim)>) -> Self {
        let mut members: Vec<_> = pairs.collect();
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self(members.into_boxed_slice())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Claim> {
        let index = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.0.get(index).map(|(_, claim)| claim)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// Returns the size of the heap memory that the claims own.
    pub(super) fn heap_bytes(&self) -> usize {
        let claims: usize = self.0.iter().map(|(_, claim)| claim.heap_bytes()).sum();
        block(self.0.len() * size_of::<(Arc<str>, Claim)>()) + claims
    }
}

/// Names, and the path of each below an object.
type Paths<'a> = Vec<(&'a WantedName, &'a str)>;

/// Names, and the JSON text of the member of each; `None` if the member is ambiguous.
type Found<'a> = Vec<(&'a WantedName, Option<&'a str>)>;

/// Follows paths into a value and adds the members at their ends to `found`. Each object on the way is parsed once. The
/// depth of the JSON bounds the recursion.
fn find_within<'a>(json: &'a str, paths: &Paths<'a>, found: &mut Found<'a>) {
    if !json.starts_with('{') {
        return;
    }
    let Ok(object) = Object::members_of(json) else {
        found.extend(paths.iter().map(|&(name, _)| (name, None)));
        return;
    };
    let mut within: BTreeMap<&str, Paths<'a>> = BTreeMap::new();
    for &(name, path) in paths {
        match path.split_once('.') {
            Some((first, rest)) => within.entry(first).or_default().push((name, rest)),
            None => match object.get(path) {
                Ok(json) => found.extend(json.map(|json| (name, Some(json)))),
                Err(_) => found.push((name, None)),
            },
        }
    }
    for (first, paths) in within {
        match object.get(first) {
            Ok(Some(json)) => find_within(json, &paths, found),
            Ok(None) => {}
            Err(_) => found.extend(paths.iter().map(|&(name, _)| (name, None))),
        }
    }
}

#[cfg(test)]
mod tests;
