//! The filters of the command line in the forms of the API: a query, and a JSON object.

use serde_json::{Map, Value};

use super::args::{FilterArguments, Selection};
use super::failure::Failure;

/// Returns the query of a filter and further parameters, with its `?`; empty without any.
pub fn query(filter: &FilterArguments, more: &[(&str, String)]) -> String {
    let fields = fields(filter).into_iter().map(|(name, value)| (name, value.to_owned()));
    let mut pairs = fields.chain(more.iter().cloned()).map(|(name, value)| format!("{name}={}", percent(&value)));
    let Some(first) = pairs.next() else { return String::new() };
    pairs.fold(format!("?{first}"), |query, pair| format!("{query}&{pair}"))
}

/// Returns the filter of a change.
///
/// # Errors
/// If the arguments select no sessions.
pub fn filter(selection: &Selection) -> Result<Value, Failure> {
    let mut filter: Map<String, Value> =
        fields(&selection.filter).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    if let Some(id) = &selection.id {
        filter.insert("id".to_owned(), id.as_str().into());
    }
    if selection.all {
        filter.insert("all".to_owned(), true.into());
    }
    if filter.is_empty() {
        return Err(Failure::of_arguments("name the ID of a session, a filter such as --route NAME, or --all"));
    }
    Ok(filter.into())
}

/// Encodes every byte that has a meaning in a query (RFC 3986 section 2.1).
pub fn percent(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn fields(filter: &FilterArguments) -> Vec<(&'static str, &str)> {
    let FilterArguments { route, auth, subject, address, upstream, server } = filter;
    let all = [
        ("route", route),
        ("auth", auth),
        ("subject", subject),
        ("address", address),
        ("upstream", upstream),
        ("server", server),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_is_encoded() {
        let filter = FilterArguments { subject: Some("a&b=ü /".to_owned()), ..FilterArguments::default() };
        assert_eq!(query(&filter, &[("limit", "5".to_owned())]), "?subject=a%26b%3D%C3%BC%20%2F&limit=5");
        assert_eq!(query(&FilterArguments::default(), &[]), "");
    }

    #[test]
    fn a_filter_has_only_the_given_fields() {
        let of = |id: Option<&str>, route: Option<&str>, all| {
            let filter = FilterArguments { route: route.map(str::to_owned), ..FilterArguments::default() };
            super::filter(&Selection { id: id.map(str::to_owned), filter, all })
        };
        assert_eq!(of(None, Some("chat"), false), Ok(json!({ "route": "chat" })));
        assert_eq!(of(Some("1f"), None, false), Ok(json!({ "id": "1f" })));
        assert_eq!(of(None, None, true), Ok(json!({ "all": true })));
        assert_eq!(of(None, None, false).unwrap_err().code, 64);
    }
}
