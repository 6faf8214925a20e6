//! TLS 1.3 records of a client that rustls does not write: any length, any padding, key updates anywhere.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use rustls::KeyLog;
use std::io;
use std::sync::Mutex;

pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;
/// The maximum plaintext of a record, without the content type byte.
pub const RECORD_MAX: usize = 1 << 14;
const TAG_LEN: usize = 16;

/// Seals records with AES-128-GCM, the only cipher of this program.
pub struct Sealer {
    secret: [u8; 32],
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    inner: Vec<u8>,
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label of RFC 8446, section 7.1, with an empty context.
fn expand<const N: usize>(secret: &[u8], label: &str) -> [u8; N] {
    let mut info = vec![0, N as u8, (6 + label.len()) as u8];
    info.extend(b"tls13 ");
    info.extend(label.bytes());
    info.push(0);
    let (mut out, prk) = ([0; N], Prk::new_less_safe(HKDF_SHA256, secret));
    let parts = [&info[..]];
    let okm = prk.expand(&parts, Len(N)).expect("a short label");
    okm.fill(&mut out).expect("the length asked for");
    out
}

fn key(secret: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &expand::<16>(secret, "key")).expect("16 bytes"))
}

impl Sealer {
    /// Returns a sealer whose next record under this secret has the number `sequence`.
    pub fn new(secret: [u8; 32], sequence: u64) -> Self {
        Self {
            key: key(&secret),
            iv: expand(&secret, "iv"),
            secret,
            sequence,
            inner: Vec::with_capacity(RECORD_MAX + 1 + TAG_LEN),
        }
    }

    /// Appends one record, with `padding` zeros after its content.
    pub fn seal(&mut self, content: u8, plain: &[u8], padding: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.inner.clear();
        self.inner.extend_from_slice(plain);
        self.inner.push(content);
        self.inner.resize(self.inner.len() + padding, 0);
        let len = ((self.inner.len() + TAG_LEN) as u16).to_be_bytes();
        let header = [DATA, 3, 3, len[0], len[1]];
        let mut nonce = self.iv;
        for (n, s) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *n ^= s;
        }
        self.sequence += 1;
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut self.inner)
            .map_err(|_| io::Error::other("a record could not be sealed"))?;
        out.extend(header);
        out.extend_from_slice(&self.inner);
        Ok(())
    }

    /// Appends a KeyUpdate and switches to the next key.
    pub fn update(&mut self, requested: bool, out: &mut Vec<u8>) -> io::Result<()> {
        self.seal(HANDSHAKE, &[24, 0, 0, 1, requested as u8], 0, out)?;
        *self = Self {
            inner: std::mem::take(&mut self.inner),
            ..Self::new(expand(&self.secret, "traffic upd"), 0)
        };
        Ok(())
    }
}

/// Records the first application traffic secret of a client. Each connection needs its own.
#[derive(Debug, Default)]
pub struct Secret(Mutex<Option<[u8; 32]>>);

impl Secret {
    pub fn take(&self) -> Option<[u8; 32]> {
        self.0.lock().ok()?.take()
    }
}

impl KeyLog for Secret {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if label == "CLIENT_TRAFFIC_SECRET_0"
            && let (Ok(mut kept), Ok(secret)) = (self.0.lock(), secret.try_into())
        {
            *kept = Some(secret);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8448, section 3: the server's application traffic secret, and the key and iv derived from it.
    #[test]
    fn keys_match_rfc_8448() {
        let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let secret: [u8; 32] = secret.try_into().unwrap();
        assert_eq!(
            expand::<16>(&secret, "key").to_vec(),
            hex("9f02283b6c9c07efc26bb9f2ac92e356")
        );
        assert_eq!(expand::<12>(&secret, "iv").to_vec(), hex("cf782b88dd83549aadf1e984"));
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }
}
