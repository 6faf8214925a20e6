//! Finds the PEM block of a public key in a file (RFC 7468).

use super::error::KeyError;

/// A PEM block that may contain a public key.
pub(super) struct Pem {
    pub(super) label: PemLabel,
    /// The Base64 text, without white space.
    pub(super) text: Vec<u8>,
}

#[derive(Clone, Copy)]
pub(super) enum PemLabel {
    PublicKey,
    RsaPublicKey,
    Certificate,
}

impl Pem {
    /// Returns the only block of a file. Text around it, as openssl writes it, is ignored (RFC 7468 section 2).
    pub(super) fn public(file: &[u8]) -> Result<Self, KeyError> {
        let begin = find(file, PEM_BEGIN).ok_or(KeyError::NotPem)?;
        if find(file, PEM_PRIVATE).is_some() {
            return Err(KeyError::PrivateKey);
        }
        let block = file.get(begin + PEM_BEGIN.len()..).unwrap_or_default();
        if find(block, PEM_BEGIN).is_some() {
            return Err(KeyError::SeveralPemBlocks);
        }
        let labels = [
            (PEM_PUBLIC, PemLabel::PublicKey),
            (PEM_RSA_PUBLIC, PemLabel::RsaPublicKey),
            (PEM_CERTIFICATE, PemLabel::Certificate),
        ];
        let found = labels.into_iter().find_map(|(text, label)| Some((label, block.strip_prefix(text)?)));
        let (label, text) = found.ok_or(KeyError::NotPublicKeyPem)?;
        let end = find(text, PEM_END).unwrap_or(text.len());
        let text = text.iter().take(end).copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        Ok(Self { label, text })
    }
}

/// Whether a file contains a PEM block.
pub(super) fn is_pem(file: &[u8]) -> bool {
    find(file, PEM_BEGIN).is_some()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

const PEM_BEGIN: &[u8] = b"-----BEGIN ";
const PEM_PRIVATE: &[u8] = b"PRIVATE KEY-----";
const PEM_PUBLIC: &[u8] = b"PUBLIC KEY-----";
const PEM_RSA_PUBLIC: &[u8] = b"RSA PUBLIC KEY-----";
const PEM_CERTIFICATE: &[u8] = b"CERTIFICATE-----";
const PEM_END: &[u8] = b"-----END ";
