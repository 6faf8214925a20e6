//! Handshakes of a listener that gets its certificates by ACME: those of clients, and those that validate a challenge.
//!
//! A TLS-ALPN-01 challenge (RFC 8737) asks for no client certificate, and its connection carries no request.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::summary::TlsSummary;
use crate::client::acme::challenge::ACME_TLS;
use crate::client::acme::held::Found;
use crate::client::acme::{Challenges, Held};
use crate::runtime::clock;

/// The codes of alerts (RFC 8446 section 6).
const ACCESS_DENIED: u8 = 49;
const UNRECOGNIZED_NAME: u8 = 112;

/// The certificates of a listener, which ACME gets.
#[derive(Debug, Clone)]
pub struct AcmeCertificates {
    /// The certificates of the listener's section.
    pub held: Arc<Held>,
    /// The challenge in progress.
    pub challenges: Arc<Challenges>,
}

/// A handshake that validated a challenge: it was completed, and its connection is closed.
#[derive(Debug)]
pub struct ChallengeAnswered(pub TlsSummary);

impl fmt::Display for ChallengeAnswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handshake validated an ACME challenge")
    }
}

impl std::error::Error for ChallengeAnswered {}

/// Changes the alert of rustls for a handshake without a certificate, which is `access_denied`, to `unrecognized_name`
/// (RFC 6066 section 3). It is the only use of that alert, and is sent before records are encrypted.
pub(super) fn name_missing_certificate(alert: &mut [u8]) {
    if let [21, 3, _, 0, 2, 2, code] = alert
        && *code == ACCESS_DENIED
    {
        *code = UNRECOGNIZED_NAME;
    }
}

impl ResolvesServerCert for AcmeCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_challenge(&hello) {
            return self.challenges.answer_tls(hello.server_name()?);
        }
        match self.held.find(hello.server_name(), clock::both().unix) {
            Found::Certificate(key) => Some(key),
            Found::Missing => None,
        }
    }
}

/// Whether the client offers the protocol of the challenge and no other one.
fn is_challenge(hello: &ClientHello<'_>) -> bool {
    let Some(mut offered) = hello.alpn() else { return false };
    offered.next() == Some(ACME_TLS) && offered.next().is_none()
}
