//! The challenge of the order in progress, as listeners answer it: HTTP-01 (RFC 8555 section 8.3) or TLS-ALPN-01 (RFC
//! 8737).

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The protocol of TLS-ALPN-01.
pub const ACME_TLS: &[u8] = b"acme-tls/1";
/// The start of the path of HTTP-01, before the token.
pub const HTTP_PATH: &str = "/.well-known/acme-challenge/";

/// A kind of challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeKind {
    /// A request on a plain listener.
    Http01,
    /// A TLS handshake.
    TlsAlpn01,
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "HTTP-01",
            Self::TlsAlpn01 => "TLS-ALPN-01",
        })
    }
}

/// The challenge in progress, if there is one. Orders are made one after another, each for one name.
#[derive(Debug, Default)]
pub struct Challenges(ArcSwapOption<Challenge>);

/// A name, and the answer of the listeners to its validation. `Debug` shows no part of it.
struct Challenge {
    name: Arc<str>,
    answer: Answer,
}

enum Answer {
    Http { token: String, key_authorization: Arc<str> },
    Tls(Arc<CertifiedKey>),
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Ends the challenge when it is dropped, unless another one has replaced it.
#[derive(Debug)]
pub struct Presented<'a> {
    challenges: &'a Challenges,
    challenge: Arc<Challenge>,
}

impl Challenges {
    /// Lets plain listeners answer the request for a token with its key authorization.
    pub fn present_http(&self, name: &Arc<str>, token: &str, key_authorization: &str) -> Presented<'_> {
        let answer = Answer::Http { token: token.to_owned(), key_authorization: key_authorization.into() };
        self.present(name, answer)
    }

    /// Lets listeners with TLS answer a handshake for a name with the digest of its key authorization.
    ///
    /// # Errors
    /// If the certificate for that cannot be made.
    pub fn present_tls(&self, name: &Arc<str>, digest: &[u8; 32]) -> Result<Presented<'_>, String> {
        Ok(self.present(name, Answer::Tls(Arc::new(certificate(name, digest)?))))
    }

    fn present(&self, name: &Arc<str>, answer: Answer) -> Presented<'_> {
        let challenge = Arc::new(Challenge { name: Arc::clone(name), answer });
        self.0.store(Some(Arc::clone(&challenge)));
        Presented { challenges: self, challenge }
    }

    /// Returns the answer to a request for this path on this host, in the form of `request_host`.
    pub fn answer_http(&self, host: &str, path: &str) -> Option<Arc<str>> {
        let asked = path.strip_prefix(HTTP_PATH)?;
        let challenge = self.0.load();
        let challenge = challenge.as_ref().filter(|challenge| *challenge.name == *host)?;
        match &challenge.answer {
            Answer::Http { token, key_authorization } if token == asked => Some(Arc::clone(key_authorization)),
            _ => None,
        }
    }

    /// Returns the certificate for a handshake that offers only [`ACME_TLS`].
    pub fn answer_tls(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let challenge = self.0.load();
        let challenge = challenge.as_ref().filter(|challenge| challenge.name.eq_ignore_ascii_case(name))?;
        match &challenge.answer {
            Answer::Tls(certificate) => Some(Arc::clone(certificate)),
            Answer::Http { .. } => None,
        }
    }
}

impl Drop for Presented<'_> {
    fn drop(&mut self) {
        self.challenges.0.rcu(|current| {
            let is_ours = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &self.challenge));
            if is_ours { None } else { current.clone() }
        });
    }
}

/// Makes the certificate of RFC 8737 section 3. Its critical extension is unknown to the check of
/// `ServerConfig::with_single_cert`.
fn certificate(name: &str, digest: &[u8; 32]) -> Result<CertifiedKey, String> {
    let describe = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(describe)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(describe)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
    let certificate = params.self_signed(&key).map_err(describe)?;
    let signer = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = any_ecdsa_type(&signer).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_for_its_name_and_token_until_it_ends() {
        let (challenges, name) = (Challenges::default(), Arc::from("a.example"));
        let path = |token: &str| format!("{HTTP_PATH}{token}");
        let http = |host: &str, token: &str| challenges.answer_http(host, &path(token)).as_deref().map(str::to_owned);
        assert_eq!(http("a.example", "t"), None);
        let presented = challenges.present_http(&name, "t", "t.thumb");
        let table =
            [("a.example", "t", true), ("b.example", "t", false), ("a.example", "u", false), ("a.example", "", false)];
        for (host, token, is_answered) in table {
            assert_eq!(http(host, token).as_deref(), is_answered.then_some("t.thumb"), "{host} {token}");
        }
        assert_eq!(challenges.answer_http("a.example", "/t"), None);
        assert!(challenges.answer_tls("a.example").is_none());
        drop(presented);
        assert_eq!(http("a.example", "t"), None);
        let presented = challenges.present_tls(&name, &[7; 32]).unwrap();
        assert!(challenges.answer_tls("A.example").is_some() && challenges.answer_tls("b.example").is_none());
        assert_eq!(http("a.example", "t"), None);
        drop(presented);
        assert!(challenges.answer_tls("a.example").is_none());
    }
}
