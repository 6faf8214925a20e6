//! Reads the members of a JSON object by name: of a token's header, and of its claims.
//!
//! Only the members that are asked for are read. Every other value must be JSON by its syntax alone, so a lone surrogate
//! or a number beyond any range in it refuses nothing. Names are compared decoded.

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
    /// The text is not a JSON object, is nested too deep, or a value that is judged cannot be represented.
    Malformed,
    /// A name occurs twice.
    Duplicate,
}

/// The members of a JSON object, ordered by name; the values as they were written.
pub(super) struct Object<'a> {
    members: Vec<(Cow<'a, [u8]>, &'a str)>,
}

impl<'a> Object<'a> {
    /// Reads a whole text. Its length bounds the work, which is linear but for the sorting of the names.
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

    /// The JSON text of a member.
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

/// A member's name as bytes: as text a name with a lone surrogate would be an error.
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

/// Whether arrays and objects are nested deeper than [`DEPTH_MAX`]. Values that are not asked for are skipped without
/// recursion, so the JSON reader itself sets them no limit.
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

/// How deep arrays and objects may be nested in each other.
const DEPTH_MAX: usize = 127;

/// A claim, as far as anything reads it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Claim {
    Null,
    Bool(bool),
    /// As it was written: two numbers that round to the same float stay different.
    Number(Box<str>),
    Text(Box<str>),
    List(Box<[Claim]>),
    /// An object or, within a list, another list: nothing reads what is in it.
    Nested,
    /// It is there but says nothing certain: a string with a lone surrogate, a number beyond any range, a list with one of
    /// these, or a member that its object has twice.
    Malformed,
}

impl Claim {
    /// Reads JSON text.
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

    /// The text of a claim that is a string, a number or a boolean: of the latter two their JSON text.
    pub(super) fn scalar_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text),
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            Self::Null | Self::List(_) | Self::Nested | Self::Malformed => None,
        }
    }

    /// The memory behind it.
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

/// What a block of memory takes: the size class of jemalloc (`man jemalloc`, "size classes").
pub(super) fn block(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=8 => 8,
        9..=128 => bytes.next_multiple_of(16),
        // Four classes between one power of two and the next.
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
    /// `judged`: names whose value, if it cannot be represented, refuses the token. `kept`: names whose value is kept as
    /// [`Claim::Malformed`] then, for who asks for it to refuse.
    pub(super) fn new<'a>(judged: impl IntoIterator<Item = &'a str>, kept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: BTreeMap<&str, bool> = kept.into_iter().map(|name| (name, false)).collect();
        names.extend(judged.into_iter().map(|name| (name, true)));
        Self(names.into_iter().map(|(name, judged)| WantedName { name: name.into(), judged }).collect())
    }
}

/// The claims of one token that are kept, ordered by the name that asks for them.
#[derive(PartialEq)]
pub(super) struct Members(Box<[(Arc<str>, Claim)]>);

impl Members {
    /// Reads the wanted claims of a payload. The claim of the whole name comes first; else, for `realm.role`, it is
    /// the member `role` of the object `realm`: collision-resistant names are often URLs and so have dots (RFC 7519
    /// section 4.2).
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

    pub(super) fn get(&self, name: &str) -> Option<&Claim> {
        let place = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.0.get(place).map(|(_, claim)| claim)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// The memory that they take.
    pub(super) fn heap_bytes(&self) -> usize {
        let claims: usize = self.0.iter().map(|(_, claim)| claim.heap_bytes()).sum();
        block(self.0.len() * size_of::<(Arc<str>, Claim)>()) + claims
    }
}

/// Names, and the path below an object at which each looks.
type Paths<'a> = Vec<(&'a WantedName, &'a str)>;

/// Names, and the text of the member that each is; `None` if it is ambiguous which.
type Found<'a> = Vec<(&'a WantedName, Option<&'a str>)>;

/// Looks for the ends of paths in a value; each object on the way is read once. The depth of the JSON bounds the recursion.
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
