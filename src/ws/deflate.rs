//! Negotiation of permessage-deflate (RFC 7692): whether an upstream's answer matches the client's offers.

/// The name of the extension.
pub const NAME: &str = "permessage-deflate";

/// The optional whitespace around a name or a value (RFC 9110 section 5.6.3).
const BLANKS: [char; 2] = [' ', '\t'];

/// Whether a server may answer these offers with this extension, parameters included (section 7.1). Frames are
/// forwarded as they are, so the parameters bind the client.
pub fn fits(accepted: &str, offers: &[&str]) -> bool {
    let offered = |name| offers.iter().flat_map(|offer| parameters(offer)).any(|(offered, _)| offered == name);
    let mut seen = Vec::new();
    !offers.is_empty()
        && parameters(accepted).all(|(name, value)| {
            let repeated = seen.contains(&name);
            seen.push(name);
            let fits = match name {
                "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
                "server_max_window_bits" => value.is_some_and(is_window),
                // Section 7.1.2.2: a server may send it only to a client that offered it.
                "client_max_window_bits" => value.is_some_and(is_window) && offered(name),
                _ => false,
            };
            fits && !repeated
        })
}

/// Returns the parameters after the name. A value may be quoted (RFC 6455 section 9.1). The quotes are only stripped:
/// no known value contains a character that requires them.
fn parameters(extension: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    extension.split(';').skip(1).map(|parameter| match parameter.split_once('=') {
        Some((name, value)) => {
            let value = value.trim_matches(BLANKS);
            let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            (name.trim_matches(BLANKS), Some(bare.unwrap_or(value)))
        }
        None => (parameter.trim_matches(BLANKS), None),
    })
}

/// Whether this is a window size: a decimal number from 8 to 15 without leading zeros (section 7.1.2).
fn is_window(bits: &str) -> bool {
    matches!(bits, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_against_the_offers() {
        let plain: &[&str] = &["permessage-deflate"];
        let windows: &[&str] = &["permessage-deflate; x=1", "permessage-deflate; client_max_window_bits"];
        let table: &[(&str, &[&str], bool)] = &[
            ("", &[], false),
            ("", plain, true),
            ("; server_no_context_takeover", plain, true),
            (";client_no_context_takeover ;\tserver_max_window_bits = 15", plain, true),
            ("; server_no_context_takeover=1", plain, false),
            ("; client_no_context_takeover=", plain, false),
            ("; server_no_context_takeover; server_no_context_takeover", plain, false),
            ("; server_max_window_bits=8", plain, true),
            ("; server_max_window_bits=\"9\"", plain, true),
            ("; server_max_window_bits", plain, false),
            ("; server_max_window_bits=7", plain, false),
            ("; server_max_window_bits=16", plain, false),
            ("; server_max_window_bits=010", plain, false),
            ("; server_max_window_bits=+9", plain, false),
            ("; server_max_window_bits=9; server_max_window_bits=9", plain, false),
            ("; client_max_window_bits=10", plain, false),
            ("; client_max_window_bits=10", windows, true),
            ("; client_max_window_bits", windows, false),
            ("; client_max_window_bits=16", windows, false),
            ("; x=1", windows, false),
            ("; Server_No_Context_Takeover", plain, false),
            (";", plain, false),
        ];
        for (parameters, offers, expected) in table {
            assert_eq!(fits(&format!("{NAME}{parameters}"), offers), *expected, "{parameters:?} {offers:?}");
        }
    }
}
