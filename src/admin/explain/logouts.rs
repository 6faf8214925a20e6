//! Explains the rules for back-channel logouts.

use super::facts::{Facts, Words, words};
use super::tokens;
use crate::config::keys::{self, Key};
use crate::policy::logout::LogoutError;

/// Explains a logout that failed.
pub(super) fn explain(error: LogoutError, facts: &Facts<'_>) -> Words {
    let logout = format!("A back-channel logout at {} failed", facts.the_path());
    let text = match (error, breach(error)) {
        (LogoutError::Token(error), _) => {
            format!("{logout}, because its token is not accepted: {}.", tokens::breach(error))
        }
        (_, (breach, None)) => format!("{logout}: {breach}."),
        (_, (breach, Some(section))) => {
            format!("{logout}: {breach} (OpenID Connect Back-Channel Logout 1.0 section {section}).")
        }
    };
    words(text, advice(error), deciding(error))
}

/// Returns the broken rule as a clause, and the section of the standard that has it.
fn breach(error: LogoutError) -> (&'static str, Option<&'static str>) {
    match error {
        LogoutError::Form => {
            ("the request is not a form with one token, is too large, or arrives too slowly", Some("2.5"))
        }
        LogoutError::Token(_) => ("its token is not accepted", Some("2.6")),
        LogoutError::Type => ("the \"typ\" of its token is that of another kind of token", Some("2.4")),
        LogoutError::Claims => {
            ("the payload of its token is not a JSON object, or a member has the wrong type", Some("2.4"))
        }
        LogoutError::Issuer => ("the \"iss\" of its token is not `issuer`", Some("2.6")),
        LogoutError::Audience => {
            ("the \"aud\" of its token contains no value of `backchannel_logout_audience`", Some("2.6"))
        }
        LogoutError::Issued => ("the \"iat\" of its token is missing or in the future", Some("2.6")),
        LogoutError::Expires => ("the \"exp\" of its token is missing or has passed", Some("2.6")),
        LogoutError::Target => {
            ("its token names neither a subject nor a session that tokens of the section can have", Some("2.6"))
        }
        LogoutError::Events => ("its token has no logout event", Some("2.4")),
        LogoutError::Nonce => ("its token has a \"nonce\", which a logout token must not have", Some("2.4")),
        LogoutError::Id => ("its token has no \"jti\", or one that is too long", Some("2.4")),
        LogoutError::Replayed => ("the same token was received before", Some("2.6")),
        LogoutError::NotStored => ("the revocation could not be stored, so that no token is revoked", None),
        LogoutError::Busy => ("too many logouts are in progress", None),
        LogoutError::NoKeys => ("the keys that verify its token were not fetched in time", None),
    }
}

fn advice(error: LogoutError) -> &'static str {
    match error {
        LogoutError::Form
        | LogoutError::Type
        | LogoutError::Claims
        | LogoutError::Events
        | LogoutError::Nonce
        | LogoutError::Id => {
            "If the issuer sent it, its software or its settings for this client have to be corrected. Nothing has to \
             change if another party did: it has no effect."
        }
        LogoutError::Token(_) => {
            "If the issuer sent it, check that its keys and algorithms are those of the auth section. Nothing has to \
             change if another party did: it has no effect."
        }
        LogoutError::Issuer => {
            "If the issuer sent it, correct `issuer`. Nothing has to change if another party did: it has no effect."
        }
        LogoutError::Audience => {
            "Add the client id that the issuer has for this service to `backchannel_logout_audience`."
        }
        LogoutError::Issued | LogoutError::Expires => {
            "Compare the clocks of this machine and the issuer. If the difference is small and cannot be removed, \
             raise `leeway`."
        }
        LogoutError::Target => {
            "The issuer has to send \"sub\" or \"sid\". With a `subject_claim` other than \"sub\" it has to send \
             \"sid\", and its access tokens need a \"sid\", too."
        }
        LogoutError::Replayed => "Nothing has to change: the first logout with this token had its effect.",
        LogoutError::NotStored => {
            "Check the log of the process, and the free space of `state_dir`. The issuer may send the logout again, or \
             `tollgate revoke` does the same."
        }
        LogoutError::Busy => "The issuer has to send the logout again. If this lasts, check the log for slow disks.",
        LogoutError::NoKeys => {
            "Check that this machine reaches `jwks_url` or the issuer. The issuer has to send it again."
        }
    }
}

fn deciding(error: LogoutError) -> &'static [Key] {
    match error {
        LogoutError::Token(_) => tokens::KEY_SOURCES,
        LogoutError::NoKeys => &[keys::JWKS_URL, keys::DISCOVERY, keys::CA, keys::KEYS_STALE_FOR],
        LogoutError::Issuer => &[keys::ISSUER],
        LogoutError::Audience => &[keys::BACKCHANNEL_LOGOUT_AUDIENCE, keys::AUDIENCE],
        LogoutError::Issued | LogoutError::Expires => &[keys::LEEWAY],
        LogoutError::Target => &[keys::SUBJECT_CLAIM],
        LogoutError::NotStored => &[keys::STATE_DIR],
        LogoutError::Form
        | LogoutError::Type
        | LogoutError::Claims
        | LogoutError::Events
        | LogoutError::Nonce
        | LogoutError::Id
        | LogoutError::Replayed
        | LogoutError::Busy => &[keys::BACKCHANNEL_LOGOUT_PATH],
    }
}
