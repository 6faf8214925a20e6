//! The declared type of a token: the header parameter `typ` (RFC 7515 section 4.1.9).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::members::Object;

/// The type of a logout token (`OpenID` Connect Back-Channel Logout 1.0 section 2.4).
pub(super) const LOGOUT: &str = "logout+jwt";
/// The type of tokens that do not say more (RFC 7519 section 5.1).
pub(super) const UNTYPED: &str = "jwt";

/// Returns `typ` in lower case, without `application/`; `None` if there is none. The signature is not verified.
pub(super) fn token_type(token: &str) -> Option<String> {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    let header = Object::parse(&header).ok()?;
    let written: String = serde_json::from_str(header.get("typ").ok()??).ok()?;
    let lower = written.to_ascii_lowercase();
    Some(lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower))
}
