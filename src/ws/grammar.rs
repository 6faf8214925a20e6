//! Grammar that several headers and the request target share: tokens and percent-encoding.

/// Whether text is a token (RFC 9110 section 5.6.2).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A part of percent-encoded text (RFC 3986 section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// A byte as it is.
    Literal(u8),
    /// A byte that an escape stands for.
    Escaped(u8),
    /// A `%` without two hexadecimal digits behind it.
    BadEscape,
}

/// Decodes percent-encoding once.
pub fn percent_decoded(mut bytes: &[u8]) -> impl Iterator<Item = Encoded> {
    std::iter::from_fn(move || {
        let (&first, rest) = bytes.split_first()?;
        bytes = rest;
        if first != b'%' {
            return Some(Encoded::Literal(first));
        }
        let Some((escaped, rest)) = rest.split_first_chunk().and_then(|(pair, rest)| Some((hex_pair(*pair)?, rest)))
        else {
            return Some(Encoded::BadEscape);
        };
        bytes = rest;
        Some(Encoded::Escaped(escaped))
    })
}

/// The byte that two hexadecimal digits stand for.
pub fn hex_pair([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once_and_malformed_ones_are_named() {
        let decode = |text: &str| percent_decoded(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(decode("a%2f%2F"), [Encoded::Literal(b'a'), Encoded::Escaped(b'/'), Encoded::Escaped(b'/')]);
        assert_eq!(decode("%252f")[0], Encoded::Escaped(b'%'));
        for bad in ["%", "%2", "%g0", "%0g", "%%41"] {
            assert_eq!(decode(bad)[0], Encoded::BadEscape, "{bad}");
        }
        assert_eq!(decode("%%41"), [Encoded::BadEscape, Encoded::Escaped(b'A')]);
        assert!(decode("").is_empty());
    }

    #[test]
    fn tokens() {
        assert!(is_token("chat.v1!#$%&'*+-^_`|~"));
        for other in ["", "a b", "a,b", "a=b", "\"a\"", "caf\u{e9}", "a/b"] {
            assert!(!is_token(other), "{other}");
        }
    }
}
