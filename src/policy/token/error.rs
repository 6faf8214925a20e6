//! Every reason for which a token is rejected.

/// Why a token was rejected. The reason is logged, and not sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// The token is longer than [`VerifierConfig::max_bytes`](super::VerifierConfig::max_bytes).
    TooLong,
    /// The token is not three parts separated by dots (RFC 7515 section 7.1).
    NotCompact,
    /// A part is not base64url, or is padded, or its last character has non-zero spare bits (RFC 7515 section 2).
    Base64,
    /// The header is not a JSON object, `alg` is missing, or a member has the wrong type (RFC 7515 section 4).
    HeaderMalformed,
    /// The header contains a member name twice (RFC 7515 section 4).
    HeaderDuplicate,
    /// The header has `crit`: it requires an extension, and none is supported (RFC 7515 section 4.1.11).
    Critical,
    /// The header has a `b64` other than true: an unsupported extension (RFC 7797 section 3).
    UnencodedPayload,
    /// `alg` is `none`, or an unknown algorithm (RFC 7518 section 3.1, RFC 8725 section 3.2).
    AlgorithmUnknown,
    /// `alg` is not listed for the section, or the key is not pinned to it (RFC 8725 section 3.1).
    AlgorithmNotAllowed,
    /// Every key has a `kid`, and none has the token's (RFC 7515 section 4.1.4); or the key that verified the token is
    /// not in the set any more.
    KeyUnknown,
    /// The token names no key of the set, and none of the keys tried within [`MAX_KEYS_COST`](super::MAX_KEYS_COST)
    /// signed it.
    KeyAmbiguous,
    /// The signature is invalid (RFC 7515 section 5.2).
    Signature,
    /// The payload is not a JSON object (RFC 7519 section 7.2), or a claim that the section itself checks contains a
    /// lone surrogate or a number out of range. Such a value in any other claim affects only the routes that use the
    /// claim.
    ClaimsMalformed,
    /// The payload contains a claim name twice (RFC 7519 section 4).
    ClaimsDuplicate,
    /// `exp` is missing; Tollgate requires it, although it is optional in RFC 7519 section 4.1.4.
    ExpiresMissing,
    /// `exp` is not a number of seconds (RFC 7519 sections 2 and 4.1.4).
    ExpiresMalformed,
    /// `exp` is not in the future (RFC 7519 section 4.1.4).
    Expired,
    /// `nbf` is not a number of seconds (RFC 7519 sections 2 and 4.1.5).
    NotBeforeMalformed,
    /// `nbf` is in the future (RFC 7519 section 4.1.5).
    NotYetValid,
    /// `iss` is not the section's issuer (RFC 7519 section 4.1.1, RFC 8725 section 3.8).
    Issuer,
    /// `aud` contains no value of the section's audience (RFC 7519 section 4.1.3, RFC 8725 section 3.9).
    Audience,
    /// `typ` is that of a logout token, which is not for the upstream even if its audience is the same (RFC 8725
    /// section 3.11).
    LogoutToken,
    /// The claim that the section names as the subject is missing, or is not a text, number or boolean.
    SubjectMissing,
    /// The text of the subject is longer than [`MAX_SUBJECT_BYTES`](super::MAX_SUBJECT_BYTES), a limit of Tollgate; RFC
    /// 7519 section 4.1.2 sets no limit.
    SubjectTooLong,
}

impl TokenError {
    /// Returns the name of the rule in logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::NotCompact => "not_compact",
            Self::Base64 => "base64",
            Self::HeaderMalformed => "header_malformed",
            Self::HeaderDuplicate => "header_duplicate",
            Self::Critical => "critical",
            Self::UnencodedPayload => "unencoded_payload",
            Self::AlgorithmUnknown => "algorithm_unknown",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::KeyUnknown => "key_unknown",
            Self::KeyAmbiguous => "key_ambiguous",
            Self::Signature => "signature",
            Self::ClaimsMalformed => "claims_malformed",
            Self::ClaimsDuplicate => "claims_duplicate",
            Self::ExpiresMissing => "expires_missing",
            Self::ExpiresMalformed => "expires_malformed",
            Self::Expired => "expired",
            Self::NotBeforeMalformed => "not_before_malformed",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::LogoutToken => "logout_token",
            Self::SubjectMissing => "subject_missing",
            Self::SubjectTooLong => "subject_too_long",
        }
    }
}
