//! Whether a client prefers problem details (RFC 9457) to text in an error response, by its `Accept` (RFC 9110 section
//! 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// The maximum number of media ranges that are read.
const RANGES_MAX: usize = 32;

/// Whether the client names a JSON type of problem details, and no type of text that it likes better. Wildcards have no
/// effect: without a preference the response is text.
pub(super) fn prefers_problem(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let ranges = lines.flat_map(|line| line.split(',')).take(RANGES_MAX).map(media_range);
    let (mut problem, mut text) = (0, 0);
    for (name, quality) in ranges {
        match name.to_ascii_lowercase().as_str() {
            "application/problem+json" | "application/json" => problem = quality.max(problem),
            "text/plain" | "text/html" | "text/*" => text = quality.max(text),
            _ => {}
        }
    }
    // Of equal ones the first would count in a list of a browser, but only programs list JSON at all.
    problem > 0 && problem >= text
}

/// Returns the name of a media range, and its quality in thousandths.
fn media_range(range: &str) -> (&str, u16) {
    let mut parts = range.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (name, weight.map_or(1000, thousandths))
}

/// Returns a quality value in thousandths (section 12.4.2); 0 if it is malformed.
fn thousandths(value: &str) -> u16 {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let is_valid = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match whole {
        "1" if is_valid => 1000,
        "0" if is_valid => format!("{fraction:0<3}").parse().unwrap_or_default(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_type_of_json_is_preferred() {
        for (accept, expected) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/*"), false),
            (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), false),
            (Some("application/json, text/plain, */*"), true),
            (Some("application/problem+json"), true),
            (Some("Application/JSON;charset=utf-8"), true),
            (Some("text/plain, application/json;q=0.9"), false),
            (Some("text/plain;q=0.5, application/json;q=0.51"), true),
            (Some("application/json;q=0"), false),
            (Some("application/json;q=2"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|accept| (ACCEPT, accept.parse().unwrap())));
            assert_eq!(prefers_problem(&headers), expected, "{accept:?}");
        }
    }
}
