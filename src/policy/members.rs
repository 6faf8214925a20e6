//! Reads members of a JSON object by name: of a token's header, and of its claims.
//!
//! Only requested members are parsed. Every other value need only be JSON by its syntax, so a lone surrogate or a
//! number out of range in it is not an error. Names are compared decoded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::mem::size_of;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::claim_path::{ClaimPath, element_index};

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
    /// An object without members.
    EmptyObject,
    /// Any other object or, within a list, any object or list. Its contents are not used.
    Nested,
    /// A value that cannot be represented: a string with a lone surrogate, a number out of range, a list with one of
    /// these, a member whose name occurs more than once, or two different members that one name refers to.
    Malformed,
}

impl Claim {
    /// Parses JSON text.
    fn parse(json: &str) -> Self {
        let claim = match json.as_bytes() {
            [b'[', ..] => Self::list(json),
            [b'{', between @ .., b'}'] if between.trim_ascii().is_empty() => Some(Self::EmptyObject),
            _ => Self::scalar(json),
        };
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
            Self::Null | Self::List(_) | Self::EmptyObject | Self::Nested | Self::Malformed => None,
        }
    }

    /// Returns the size of the heap memory that the value owns.
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Number(text) | Self::Text(text) => block(text.len()),
            Self::List(values) => {
                block(values.len() * size_of::<Self>()) + values.iter().map(Self::heap_bytes).sum::<usize>()
            }
            Self::Null | Self::Bool(_) | Self::EmptyObject | Self::Nested | Self::Malformed => 0,
        }
    }
}

/// Parses a `NumericDate` (RFC 7519 section 2): seconds since the Unix epoch, optionally with a fraction. Returns
/// `None` if the value is not a number, is before the epoch, or is out of range.
pub(super) fn numeric_date(value: &Claim) -> Option<Duration> {
    let Claim::Number(text) = value else { return None };
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Duration::try_from_secs_f64(text.parse().ok()?).ok(),
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
    path: ClaimPath,
    judged: bool,
}

impl Wanted {
    /// Creates the list. A `judged` claim that cannot be represented is an error. A claim that is only `kept` becomes
    /// [`Claim::Malformed`] instead, and the routes that use it reject the request.
    pub(super) fn new(judged: impl IntoIterator<Item = ClaimPath>, kept: impl IntoIterator<Item = ClaimPath>) -> Self {
        let mut names: BTreeMap<ClaimPath, bool> = kept.into_iter().map(|path| (path, false)).collect();
        names.extend(judged.into_iter().map(|path| (path, true)));
        Self(names.into_iter().map(|(path, judged)| WantedName { path, judged }).collect())
    }
}

/// The kept claims of one token, ordered by requested name.
#[derive(PartialEq)]
pub(super) struct Members(Box<[(Arc<str>, Claim)]>);

impl Members {
    /// Reads the wanted claims of a payload. A name that refers to two different values, as [`ClaimPath`] describes, is
    /// [`Claim::Malformed`].
    pub(super) fn parse(payload: &[u8], wanted: &Wanted) -> Result<Self, ObjectError> {
        let object = Object::parse(payload)?;
        let mut found = Vec::new();
        for name in &wanted.0 {
            if let Some(member) = name.path.member()
                && let Some(json) = object.get(member)?
            {
                found.push((name, Some(json)));
            }
        }
        let nested = wanted.0.iter().map(|name| (name, name.path.nested_steps()));
        let nested = nested.filter(|(_, steps)| !steps.is_empty()).collect();
        find_within(&Container::Object(object), nested, &mut found);

        let claim = |(name, json): (&WantedName, Option<&str>)| {
            (Arc::clone(name.path.text()), json.map_or(Claim::Malformed, Claim::parse))
        };
        let mut members: Vec<(Arc<str>, Claim)> = found.into_iter().map(claim).collect();
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        members.dedup_by(|(second_name, second), (name, first)| {
            if second_name != name {
                return false;
            }
            if second != first {
                *first = Claim::Malformed;
            }
            true
        });
        let members = Self(members.into_boxed_slice());
        let is_malformed = |name: &WantedName| members.get(name.path.as_str()) == Some(&Claim::Malformed);
        if wanted.0.iter().any(|name| name.judged && is_malformed(name)) {
            return Err(ObjectError::Malformed);
        }
        Ok(members)
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

/// Names, and the steps from a value to the member of each. There is at least one step.
type Paths<'a> = Vec<(&'a WantedName, &'a [Box<str>])>;

/// Names, and the JSON text of the member of each; `None` if the member is ambiguous.
type Found<'a> = Vec<(&'a WantedName, Option<&'a str>)>;

/// A value that has members.
enum Container<'a> {
    Object(Object<'a>),
    List(Vec<&'a RawValue>),
}

impl<'a> Container<'a> {
    /// Parses JSON text. A value without members is an empty list.
    fn parse(json: &'a str) -> Result<Self, ObjectError> {
        match json.as_bytes().first() {
            Some(b'{') => Object::members_of(json).map(Self::Object),
            Some(b'[') => serde_json::from_str(json).map(Self::List).map_err(|_| ObjectError::Malformed),
            _ => Ok(Self::List(Vec::new())),
        }
    }

    /// Returns the JSON text of a member. Only a JSON pointer finds an element of a list.
    fn get(&self, step: &str) -> Result<Option<&'a str>, ObjectError> {
        match self {
            Self::Object(object) => object.get(step),
            Self::List(values) => Ok(element_index(step).and_then(|index| values.get(index)).map(|value| value.get())),
        }
    }
}

/// Follows paths from a value and adds the members at their ends to `found`. Each value on the way is parsed once. The
/// number of steps bounds the recursion.
fn find_within<'a>(value: &Container<'a>, mut paths: Paths<'a>, found: &mut Found<'a>) {
    if matches!(value, Container::List(_)) {
        paths.retain(|(name, _)| name.path.is_pointer());
    }
    let mut by_step: BTreeMap<&str, Paths<'a>> = BTreeMap::new();
    for (name, steps) in paths {
        if let Some((step, rest)) = steps.split_first() {
            by_step.entry(step).or_default().push((name, rest));
        }
    }
    for (step, paths) in by_step {
        let json = match value.get(step) {
            Ok(Some(json)) => json,
            Ok(None) => continue,
            Err(_) => {
                found.extend(paths.into_iter().map(|(name, _)| (name, None)));
                continue;
            }
        };
        let (ends, further): (Paths<'a>, Paths<'a>) = paths.into_iter().partition(|(_, rest)| rest.is_empty());
        found.extend(ends.into_iter().map(|(name, _)| (name, Some(json))));
        if further.is_empty() {
            continue;
        }
        match Container::parse(json) {
            Ok(value) => find_within(&value, further, found),
            Err(_) => found.extend(further.into_iter().map(|(name, _)| (name, None))),
        }
    }
}

#[cfg(test)]
mod tests;
