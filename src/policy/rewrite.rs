//! The changes that a route makes to a request before its upstream receives it: headers, and the path.

use http::{HeaderName, HeaderValue};

use super::claims::canonical_header_name;
use super::header_value::header_value;
use super::path::PathError;
use super::pattern::Params;
use super::template::Template;

/// The maximum length of a header value, in bytes: the longest token of the default configuration.
pub const VALUE_MAX_BYTES: usize = 8192;

/// The changes that a route makes to a request. The query is never changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    set: Vec<(HeaderName, SetValue)>,
    /// The canonical names of the client headers that the upstream does not receive.
    withheld: Vec<String>,
    path: PathRewrite,
}

/// The value of a header that a route sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetValue {
    /// A text, which may contain placeholders of the path.
    Text(Template),
    /// A secret, which `Debug` does not show.
    Secret(SecretValue),
}

/// A header value from a file.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(HeaderValue);

/// The change of the path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PathRewrite {
    /// None.
    #[default]
    Keep,
    /// Removes this many segments at the start. Every path of the route has them.
    Strip(usize),
    /// Replaces the whole path by this one, which starts with `/`.
    Replace(Box<str>),
}

impl Rewrite {
    /// Sets headers, which replace those of the client; withholds these headers of the client; and changes the path.
    pub fn new(set: Vec<(HeaderName, SetValue)>, removed: &[HeaderName], path: PathRewrite) -> Self {
        let withheld = set.iter().map(|(name, _)| name).chain(removed).map(canonical_header_name).collect();
        Self { set, withheld, path }
    }

    /// Returns the [canonical names](canonical_header_name) of the client headers that the upstream does not receive.
    /// Those of other spellings that an upstream could read as the same are withheld, too.
    pub fn withheld(&self) -> &[String] {
        &self.withheld
    }

    /// Returns the headers that the upstream receives from the route.
    ///
    /// # Errors
    /// If a value with placeholders is not visible ASCII with spaces only between other characters, or is longer than
    /// [`VALUE_MAX_BYTES`], or a placeholder has a comma, a semicolon or a quote, which begin a further item of a list, a
    /// parameter or a cookie. An empty value is an empty header.
    pub fn headers(&self, params: &Params) -> Result<Vec<(HeaderName, HeaderValue)>, PathError> {
        let value = |value: &SetValue| match value {
            SetValue::Secret(secret) => Some(secret.0.clone()),
            SetValue::Text(template) => match template.fill_with(params, is_one_item)?.as_str() {
                "" => Some(HeaderValue::from_static("")),
                text => header_value(text, VALUE_MAX_BYTES),
            },
        };
        let header = |(name, set): &(HeaderName, SetValue)| {
            value(set).map(|value| (name.clone(), value)).ok_or(PathError::HeaderValue)
        };
        self.set.iter().map(header).collect()
    }

    /// Returns the path that the upstream receives instead of this one, which the route matches: as the client sent it,
    /// without the prefix, or the replacement. It starts with `/`.
    pub fn path<'a>(&'a self, path: &'a str) -> &'a str {
        match &self.path {
            PathRewrite::Keep => path,
            PathRewrite::Replace(replacement) => replacement,
            // No segment contains an escaped slash, so each raw `/` begins a segment.
            PathRewrite::Strip(segments) => {
                path.match_indices('/').nth(*segments).and_then(|(at, _)| path.get(at..)).unwrap_or("/")
            }
        }
    }
}

/// Whether a text from the path is within one item of a header, whatever the header.
fn is_one_item(text: &str) -> bool {
    !text.contains([',', ';', '"'])
}

impl SetValue {
    /// Returns the value with this text; `None` if no path could make it a header value.
    pub fn text(template: Template) -> Option<Self> {
        let params = template.names().map(|name| (name.into(), "x".to_owned())).collect();
        header_value(&template.fill(&Params::new(params))?, VALUE_MAX_BYTES)?;
        Some(Self::Text(template))
    }

    /// Returns the value in the content of a file, of which one line end is ignored; `None` if it is not visible ASCII
    /// with spaces only between other characters, or has fewer than 1 or more than [`VALUE_MAX_BYTES`] bytes.
    pub fn secret(content: &[u8]) -> Option<Self> {
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        header_value(std::str::from_utf8(line).ok()?, VALUE_MAX_BYTES).map(|value| Self::Secret(SecretValue(value)))
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

#[cfg(test)]
mod tests;
