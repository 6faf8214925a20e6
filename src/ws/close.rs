//! The payload of a Close frame (RFC 6455 section 5.5.1).

use super::code::CloseCode;
use super::violation::Violation;

/// The parsed payload of a Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close<'a> {
    /// The close code; `None` if the payload is empty.
    pub code: Option<CloseCode>,
    /// The reason, for a human reader; it may be empty.
    pub reason: &'a str,
}

impl<'a> Close<'a> {
    /// Parses an unmasked payload.
    ///
    /// # Errors
    /// If the payload is a single byte, the code must not be sent, or the reason is not UTF-8.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Violation> {
        match payload {
            [] => Ok(Self { code: None, reason: "" }),
            [_] => Err(Violation::ShortClose),
            [high, low, reason @ ..] => {
                let code = CloseCode(u16::from_be_bytes([*high, *low]));
                if !code.may_be_sent() {
                    return Err(Violation::CloseCode);
                }
                let reason = std::str::from_utf8(reason).map_err(|_| Violation::CloseReason)?;
                Ok(Self { code: Some(code), reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_parsed_or_rejected() {
        let close = |code, reason| Ok(Close { code: Some(CloseCode(code)), reason });
        let table: &[(&[u8], Result<Close<'_>, Violation>)] = &[
            (b"", Ok(Close { code: None, reason: "" })),
            (b"\x03", Err(Violation::ShortClose)),
            (b"\x03\xe8", close(1000, "")),
            (b"\x03\xf6bye", close(1014, "bye")),
            (b"\x0f\xa1\xc3\xa4", close(4001, "ä")),
            (b"\x03\xe8\xff", Err(Violation::CloseReason)),
            (b"\x00\x00", Err(Violation::CloseCode)),
        ];
        for (payload, expected) in table {
            assert_eq!(Close::parse(payload), *expected, "{payload:?}");
        }
    }

    #[test]
    fn only_registered_codes_and_private_ranges_may_be_sent() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!CloseCode(code).may_be_sent(), "{code}");
        }
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(CloseCode(code).may_be_sent(), "{code}");
        }
    }
}
