//! Reads a certificate chain and its key, and checks that clients will accept them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Validity;

use super::diagnostic::Diagnostic;
use super::file::{Located, Section};
use super::files::{self, Content, FileLoader};
use super::keys::{CHAIN, KEY, Key, UPSTREAM_CERTIFICATE, UPSTREAM_KEY};
use super::model::Certificate;
use crate::balance::ClientCertificate;

/// Maximum number of certificates in a chain. A chain has two or three; a bundle of roots is reported as an error.
const CHAIN_MAX: usize = 16;
/// How long before its expiry a certificate causes a warning. An ACME client renews it weeks before.
pub const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// The keys of a chain and its private key, and what their certificate is for.
struct Use {
    chain: &'static Key,
    key: &'static Key,
    /// Whether the certificate must name a host.
    names_host: bool,
    /// The peers that check it, in messages.
    peers: &'static str,
}

const OF_LISTENER: Use = Use { chain: &CHAIN, key: &KEY, names_host: true, peers: "clients" };
const OF_CLIENT: Use =
    Use { chain: &UPSTREAM_CERTIFICATE, key: &UPSTREAM_KEY, names_host: false, peers: "the servers" };

/// Reads one entry of `certificates`.
pub(super) fn read(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<Certificate> {
    let Pair { leaf, certified, .. } = pair(section, folder, &OF_LISTENER)?;
    let (not_before, not_after) = (leaf.validity.not_before.to_system_time(), leaf.validity.not_after.to_system_time());
    Some(Certificate { names: leaf.names, key: Arc::new(certified), not_before, not_after })
}

/// Reads the client certificate of an upstream.
pub(super) fn read_client(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<ClientCertificate> {
    let Pair { leaf, certified, key } = pair(section, folder, &OF_CLIENT)?;
    let not_after = leaf.validity.not_after.to_system_time();
    Some(ClientCertificate { chain: certified.cert, key: Arc::new(key), not_after })
}

/// Parses a chain and its private key in PEM, which are not files that an operator names.
///
/// # Errors
/// If one of them cannot be used, or the key is not that of the first certificate.
pub fn parse_certificate(chain: &[u8], key: &[u8]) -> Result<Certificate, String> {
    let certificates = parse_chain(chain)?;
    let leaf = Leaf::read(certificates.first().ok_or("there is no certificate")?, true)?;
    let (_, signer) = parse_key(key)?;
    let certified = CertifiedKey::new(certificates, signer);
    certified.keys_match().map_err(|_| "the key is not that of the certificate".to_owned())?;
    let (not_before, not_after) = (leaf.validity.not_before.to_system_time(), leaf.validity.not_after.to_system_time());
    Ok(Certificate { names: leaf.names, key: Arc::new(certified), not_before, not_after })
}

/// A chain and its private key, which match.
struct Pair {
    leaf: Leaf,
    certified: CertifiedKey,
    key: PrivateKeyDer<'static>,
}

fn pair(section: &Section<'_>, folder: &FileLoader<'_>, its: &Use) -> Option<Pair> {
    let chain = folder.read(section, its.chain);
    let key = folder.read_secret(section, its.key);
    let note = |key: &Key, at: &Located<Content>, label: String| {
        let message = format!("the file of `{}` cannot be used", key.name);
        section.diagnostics.push(Diagnostic::error(at.span.clone(), message).label(label));
    };

    // Both files are read before an error in either returns, so that errors in both are reported.
    let leaf = chain.as_ref().and_then(|chain| {
        let read = parse_chain(&chain.bytes).and_then(|certificates| {
            let leaf = Leaf::read(certificates.first().ok_or("it holds no certificate")?, its.names_host)?;
            Ok((certificates, leaf))
        });
        read.map_err(|label| note(its.chain, chain, label)).ok()
    });
    // The validity is checked even if the key cannot be read.
    if let (Some(chain), Some((_, leaf))) = (&chain, &leaf) {
        warn_of_validity(section, chain, &leaf.validity, its.peers, folder.files.now());
    }
    let signer = key.as_ref().and_then(|key| parse_key(&key.bytes).map_err(|label| note(its.key, key, label)).ok());

    let ((certificates, leaf), (der, signer)) = (leaf?, signer?);
    let certified = CertifiedKey::new(certificates, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            note(its.key, &key?, "this is not the key of the certificate".to_owned());
            return None;
        }
        Err(error) => {
            note(its.chain, &chain?, error.to_string());
            return None;
        }
    }
    Some(Pair { leaf, certified, key: der })
}

/// Warns of a certificate that peers reject now, or will reject soon. Does nothing if the clock cannot be right.
fn warn_of_validity(
    section: &Section<'_>,
    chain: &Located<Content>,
    validity: &Validity,
    peers: &str,
    now: SystemTime,
) {
    if !files::can_be_right(now) {
        return;
    }
    let warning = |message: String| Diagnostic::warning(chain.span.clone(), message);
    if now < validity.not_before.to_system_time() {
        let message = format!("the certificate is not valid before {}", validity.not_before);
        section.diagnostics.push(warning(message).label(format!("{peers} reject it until then")).urgent());
        return;
    }
    let Ok(left) = validity.not_after.to_system_time().duration_since(now) else {
        let message = format!("the certificate expired at {}", validity.not_after);
        section.diagnostics.push(warning(message).label(format!("{peers} reject it")).urgent());
        return;
    };
    if left < EXPIRES_SOON {
        let (days, hours) = (left.as_secs() / 86_400, left.as_secs() / 3600);
        let left = match (days, hours) {
            (0, 0) => "less than an hour".to_owned(),
            (0, 1) => "1 hour".to_owned(),
            (0, hours) => format!("{hours} hours"),
            (1, _) => "1 day".to_owned(),
            (days, _) => format!("{days} days"),
        };
        let message = format!("the certificate expires at {}, in {left}", validity.not_after);
        section.diagnostics.push(warning(message).label("renew it"));
    }
}

fn parse_chain(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(file).collect::<Result<_, _>>().map_err(|error| explain(&error))?;
    match chain.len() {
        0 => Err("it holds no certificate in PEM (`BEGIN CERTIFICATE`)".to_owned()),
        1..=CHAIN_MAX => Ok(chain),
        count => Err(format!("it holds {count} certificates; the maximum is {CHAIN_MAX}")),
    }
}

fn parse_key(file: &[u8]) -> Result<(PrivateKeyDer<'static>, Arc<dyn SigningKey>), String> {
    let key = PrivateKeyDer::from_pem_slice(file).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(file, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            "the key is encrypted: store it without a passphrase".to_owned()
        }
        pem::Error::NoItemsFound => {
            "it holds no private key in PEM (`BEGIN PRIVATE KEY`, `BEGIN RSA PRIVATE KEY`, `BEGIN EC PRIVATE KEY`)"
                .to_owned()
        }
        error => explain(&error),
    })?;
    let unsupported = |_| "unsupported key: expected RSA, ECDSA P-256 or P-384, or Ed25519".to_owned();
    let signer = any_supported_type(&key).map_err(unsupported)?;
    Ok((key, signer))
}

/// Describes an error of the PEM reader, whose own message is not shown because it quotes the file.
fn explain(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is not PEM: an `END` line is missing",
        pem::Error::IllegalSectionStart { .. } => "it is not PEM: a `BEGIN` line is malformed",
        pem::Error::Base64Decode(_) => "it is not PEM: a section is not Base64",
        _ => "it is not PEM",
    }
    .to_owned()
}

fn contains(file: &[u8], text: &[u8]) -> bool {
    file.windows(text.len()).any(|window| window == text)
}

/// The names and the validity of the first certificate.
struct Leaf {
    names: Vec<String>,
    validity: Validity,
}

impl Leaf {
    fn read(certificate: &CertificateDer<'_>, names_host: bool) -> Result<Self, String> {
        let parsed = x509_cert::Certificate::from_der(certificate)
            .map_err(|_| "the first certificate is not a valid X.509 certificate (RFC 5280)".to_owned())?;
        let parsed = parsed.tbs_certificate();
        let validity = *parsed.validity();
        let alternative = parsed
            .get_extension::<SubjectAltName>()
            .map_err(|_| "the certificate's subject alternative name cannot be read".to_owned())?;
        let alternative = alternative.map(|(_, names)| names.0).unwrap_or_default();
        if names_host
            && !alternative.iter().any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_)))
        {
            return Err(
                "the certificate names no host: it has no DNS name or IP address as subject alternative name, \
                        and clients ignore its common name"
                    .to_owned(),
            );
        }
        let names = alternative.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        });
        Ok(Self { names: names.collect(), validity })
    }
}
