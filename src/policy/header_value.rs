//! The texts that a header to an upstream may carry.

use http::HeaderValue;

/// Returns the value of a header with this text, marked as sensitive. `None` unless the text is visible ASCII, with
/// spaces only between other characters, and has 1 to `max_bytes` bytes: no other text is certain to be in
/// one line of one header for every upstream.
pub(super) fn header_value(text: &str, max_bytes: usize) -> Option<HeaderValue> {
    let fits = (1..=max_bytes).contains(&text.len()) && text.trim_matches(' ') == text;
    if !fits || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return None;
    }
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
