//! Explains the rules for paths, whose breach would let the policy and the upstream read a path differently.

use super::facts::{Facts, Words, sentence, words};
use crate::config::keys;
use crate::policy::path::{PATH_MAX_BYTES, PATH_MAX_SEGMENTS, PathError};

/// Explains a path that was rejected.
pub(super) fn explain(error: PathError, facts: &Facts<'_>) -> Words {
    let (path, (rule, advice)) = (facts.the_path(), rule(error));
    let keys: &[_] = if error == PathError::HeaderValue { &[keys::SET_HEADERS] } else { &[] };
    let text = sentence(format!(
        "{path} is rejected, because the upstream could read it in another way than Tollgate: {rule}."
    ));
    words(text, format!("{advice} Nothing has to change if the request comes from a scanner."), keys)
}

/// Returns the broken rule as a clause, and the advice as a sentence.
fn rule(error: PathError) -> (String, &'static str) {
    let (rule, advice) = match error {
        PathError::NotAbsolute => ("it does not start with \"/\"", "The client has to send a path from the root."),
        PathError::TooLong => {
            return (
                format!("it is longer than {PATH_MAX_BYTES} bytes"),
                "The client has to send long values in the query or in a message.",
            );
        }
        PathError::TooManySegments => {
            return (
                format!("it has more than {PATH_MAX_SEGMENTS} segments"),
                "The client has to use a path with fewer segments.",
            );
        }
        PathError::Delimiter => (
            "it contains an unescaped \"?\", \"#\" or space",
            "The client has to escape these characters, as %3F, %23 and %20.",
        ),
        PathError::BadEscape => (
            "a \"%\" in it is not followed by two hexadecimal digits",
            "The client has to escape a percent sign as %25.",
        ),
        PathError::EncodedSlash => (
            "a segment contains an escaped slash (%2F)",
            "The client has to send a value with slashes in the query or in a message.",
        ),
        PathError::Backslash => {
            ("it contains a backslash, raw or as %5C", "The client has to separate the segments by \"/\".")
        }
        PathError::Control => {
            ("it contains a control character, raw or escaped", "The client has to leave control characters out.")
        }
        PathError::NotUtf8 => (
            "its text is not UTF-8 after decoding",
            "The client has to encode the text as UTF-8 before it escapes \
                                                      it.",
        ),
        PathError::DotSegment => (
            "a segment is \".\" or \"..\", raw or escaped",
            "The client has to resolve the path before it sends it, as browsers do.",
        ),
        PathError::DotParameter => (
            "a segment is \".\" or \"..\" with parameters after a \";\"",
            "The client has to resolve the path before it sends it.",
        ),
        PathError::EmptySegment => (
            "it contains an empty segment (\"//\")",
            "The client has to send one slash between two segments. The base URL in its settings may end with a \
             slash.",
        ),
        PathError::EncodedTwice => (
            "a segment still contains an escape after it was decoded, such as %252F",
            "The client, or a proxy in front of Tollgate, has to escape the path only once.",
        ),
        PathError::HeaderValue => (
            "a part of it goes into a header of the request to the upstream, which can carry only visible ASCII, with \
             spaces between other characters",
            "The client has to use names of such characters, or the route has to leave the placeholder out of \
             `set_headers`.",
        ),
    };
    (rule.to_owned(), advice)
}
