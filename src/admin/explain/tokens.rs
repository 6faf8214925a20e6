//! Explains the rules for tokens.

use super::facts::{Facts, Words, words};
use crate::config::keys::{self, Key};
use crate::policy::token::{MAX_SUBJECT_BYTES, TokenError};

/// The keys that name the keys of an auth section.
pub(super) const KEY_SOURCES: &[Key] =
    &[keys::JWKS_URL, keys::JWKS_FILE, keys::DISCOVERY, keys::PUBLIC_KEY_FILE, keys::SECRET_FILE];

/// Explains a token that was rejected.
pub(super) fn explain(error: TokenError, facts: &Facts<'_>) -> Words {
    let text = format!("The token does not meet the rules of {}: {}.", facts.the_auth(), breach(error));
    words(text, advice(error), deciding(error))
}

/// Returns the broken rule as a clause.
pub(super) fn breach(error: TokenError) -> String {
    let breach = match error {
        TokenError::TooLong => "it is longer than `token_max_size`",
        TokenError::NotCompact => "it does not consist of three parts separated by dots (RFC 7515 section 7.1)",
        TokenError::Base64 => "a part of it is not base64url without padding (RFC 7515 section 2)",
        TokenError::HeaderMalformed => {
            "its header is not a JSON object with an \"alg\", or a member has the wrong type (RFC 7515 section 4)"
        }
        TokenError::HeaderDuplicate => "its header has a member twice (RFC 7515 section 4)",
        TokenError::Critical => {
            "its header has \"crit\", which requires an extension that is not supported (RFC 7515 section 4.1.11)"
        }
        TokenError::UnencodedPayload => "its header has a \"b64\" other than true (RFC 7797 section 3)",
        TokenError::AlgorithmUnknown => {
            "its algorithm is \"none\", or one that Tollgate does not know (RFC 8725 section 3.2)"
        }
        TokenError::AlgorithmNotAllowed => {
            "its algorithm is not in `algorithms`, or its key is for another one (RFC 8725 section 3.1)"
        }
        TokenError::KeyUnknown => {
            "the key that it names with \"kid\" is not in the key set, or has left it (RFC 7515 section 4.1.4)"
        }
        TokenError::KeyAmbiguous => {
            "it names no key of the set, and none of the first keys signed it (at most eight are tried)"
        }
        TokenError::Signature => "no key of the section made its signature (RFC 7515 section 5.2)",
        TokenError::ClaimsMalformed => {
            "its payload is not a JSON object, or has text or a number that cannot be read (RFC 7519 section 7.2)"
        }
        TokenError::ClaimsDuplicate => "its payload has a claim twice (RFC 7519 section 4)",
        TokenError::ExpiresMissing => "it has no \"exp\", which Tollgate requires",
        TokenError::ExpiresMalformed => "its \"exp\" is not a number of seconds (RFC 7519 section 4.1.4)",
        TokenError::Expired => "its \"exp\" has passed by more than `leeway` (RFC 7519 section 4.1.4)",
        TokenError::NotBeforeMalformed => "its \"nbf\" is not a number of seconds (RFC 7519 section 4.1.5)",
        TokenError::NotYetValid => "its \"nbf\" is in the future by more than `leeway` (RFC 7519 section 4.1.5)",
        TokenError::Issuer => "its \"iss\" is not `issuer` (RFC 7519 section 4.1.1)",
        TokenError::Audience => "its \"aud\" contains no value of `audience` (RFC 7519 section 4.1.3)",
        TokenError::LogoutToken => "it is a logout token, which admits no client (RFC 8725 section 3.11)",
        TokenError::SubjectMissing => {
            "the claim that `subject_claim` names is missing or empty, or is a list or an object"
        }
        TokenError::SubjectTooLong => return format!("its subject is longer than {MAX_SUBJECT_BYTES} bytes"),
    };
    breach.to_owned()
}

fn advice(error: TokenError) -> &'static str {
    match error {
        TokenError::TooLong => {
            "Raise `token_max_size` if the issuer's tokens are that long. The listener's `head_max_size` must be \
             larger."
        }
        TokenError::NotCompact => {
            "The client has to send a signed JSON Web Token and nothing else. Opaque and encrypted tokens need a \
             section with `kind = \"forward\"`."
        }
        TokenError::Base64
        | TokenError::HeaderMalformed
        | TokenError::HeaderDuplicate
        | TokenError::UnencodedPayload
        | TokenError::ClaimsMalformed
        | TokenError::ClaimsDuplicate
        | TokenError::ExpiresMalformed
        | TokenError::NotBeforeMalformed => {
            "If the issuer made the token, its software has to be corrected. Nothing has to change if the client made \
             it up or changed it."
        }
        TokenError::Critical => "The issuer has to issue tokens without \"crit\".",
        TokenError::AlgorithmUnknown => {
            "The issuer has to sign with an algorithm that `algorithms` can list, such as ES256 or RS256. Nothing has \
             to change if the client chose the algorithm."
        }
        TokenError::AlgorithmNotAllowed => {
            "If the issuer signs with this algorithm, add it to `algorithms`, and check that its key is in the \
             section. Nothing has to change if the client chose the algorithm."
        }
        TokenError::KeyUnknown | TokenError::Signature => {
            "If the issuer changed its keys, update the file, or check that `jwks_url` serves the new key. If tokens \
             of another issuer arrive, add a section for it to `auth` of the route. Otherwise nothing has to change: \
             the token is forged, or the client has to get a new one."
        }
        TokenError::KeyAmbiguous => {
            "The issuer has to name the key of each token with \"kid\", or publish fewer \
                                     keys."
        }
        TokenError::ExpiresMissing => "The issuer has to issue tokens that expire.",
        TokenError::Expired => {
            "Nothing has to change: the client has to get a new token before it connects. If tokens are new and still \
             rejected, compare the clocks of this machine and the issuer."
        }
        TokenError::NotYetValid => {
            "Compare the clocks of this machine and the issuer. If the difference is small and cannot be removed, \
             raise `leeway`."
        }
        TokenError::Issuer => {
            "If this issuer is the right one, correct `issuer`, which is compared letter by letter, also a slash at \
             its end. Otherwise the client has to use a token of the expected issuer."
        }
        TokenError::Audience => {
            "If the token is meant for this service, add its audience to `audience`. Otherwise the client has to ask \
             the issuer for a token for this service."
        }
        TokenError::LogoutToken => {
            "The client has to send an access token. An issuer sends logout tokens to `backchannel_logout_path`."
        }
        TokenError::SubjectMissing => {
            "The issuer has to add the claim to its tokens, or `subject_claim` has to name another one."
        }
        TokenError::SubjectTooLong => "Name a claim with a shorter value in `subject_claim`, such as an id.",
    }
}

fn deciding(error: TokenError) -> &'static [Key] {
    match error {
        TokenError::TooLong => &[keys::TOKEN_MAX_SIZE, keys::HEAD_MAX_SIZE],
        TokenError::NotCompact => &[keys::TOKEN_FROM, keys::KIND],
        TokenError::AlgorithmUnknown | TokenError::AlgorithmNotAllowed => &[keys::ALGORITHMS],
        TokenError::KeyUnknown | TokenError::KeyAmbiguous | TokenError::Signature => KEY_SOURCES,
        TokenError::Expired | TokenError::NotYetValid => &[keys::LEEWAY],
        TokenError::Issuer => &[keys::ISSUER, keys::AUTH],
        TokenError::Audience => &[keys::AUDIENCE, keys::AUTH],
        TokenError::LogoutToken => &[keys::BACKCHANNEL_LOGOUT_PATH],
        TokenError::SubjectMissing | TokenError::SubjectTooLong => &[keys::SUBJECT_CLAIM],
        TokenError::Base64
        | TokenError::HeaderMalformed
        | TokenError::HeaderDuplicate
        | TokenError::Critical
        | TokenError::UnencodedPayload
        | TokenError::ClaimsMalformed
        | TokenError::ClaimsDuplicate
        | TokenError::ExpiresMissing
        | TokenError::ExpiresMalformed
        | TokenError::NotBeforeMalformed => &[],
    }
}
