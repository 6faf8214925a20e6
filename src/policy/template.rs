//! Texts of the configuration with placeholders of a route's path, such as `{room}`.

use std::fmt;
use std::str::FromStr;

use super::pattern::Params;

/// A text that may contain placeholders of the route's path: `{room}`. A literal brace cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(String),
}

/// Why a template is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemplateError {
    /// A `{` without `}`, or a `}` without `{`.
    UnbalancedBraces,
    /// The placeholder has no name, or a name with characters other than letters, digits, `_` and `-`.
    PlaceholderName,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnbalancedBraces => "the braces of the value are not balanced",
            Self::PlaceholderName => "a placeholder is written `{name}`, with letters, digits, `_` and `-`",
        })
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Returns the names of the placeholders.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Placeholder(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Returns the text, or `None` if the path did not fill a placeholder.
    pub fn fill(&self, params: &Params) -> Option<String> {
        self.fill_with(params, |_| true)
    }

    /// Returns the text, or `None` if the path did not fill a placeholder, or filled one with a value that `may_fill` does
    /// not permit.
    pub fn fill_with(&self, params: &Params, may_fill: impl Fn(&str) -> bool) -> Option<String> {
        let mut filled = String::new();
        for part in &self.0 {
            filled.push_str(match part {
                Part::Text(text) => text,
                Part::Placeholder(name) => params.get(name).filter(|value| may_fill(value))?,
            });
        }
        Some(filled)
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(TemplateError::UnbalancedBraces)?;
            let is_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(TemplateError::PlaceholderName);
            }
            parts.push(text_part(before)?);
            parts.push(Part::Placeholder(name.to_owned()));
            rest = after;
        }
        parts.push(text_part(rest)?);
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self(parts))
    }
}

fn text_part(text: &str) -> Result<Part, TemplateError> {
    if text.contains('}') { Err(TemplateError::UnbalancedBraces) } else { Ok(Part::Text(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_values_are_rejected() {
        let cases = [
            ("{room", TemplateError::UnbalancedBraces),
            ("room}", TemplateError::UnbalancedBraces),
            ("}{", TemplateError::UnbalancedBraces),
            ("{a}}", TemplateError::UnbalancedBraces),
            ("x}{a}", TemplateError::UnbalancedBraces),
            ("{{a}}", TemplateError::PlaceholderName),
            ("{}", TemplateError::PlaceholderName),
            ("{*rest}", TemplateError::PlaceholderName),
            ("{a b}", TemplateError::PlaceholderName),
        ];
        for (value, expected) in cases {
            assert_eq!(value.parse::<Template>(), Err(expected), "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_parsed_or_rejected(value in "[a-z{}]{0,12}") {
            if let Ok(template) = value.parse::<Template>() {
                prop_assert_eq!(value.matches('{').count(), template.names().count());
            }
        }
    }
}
