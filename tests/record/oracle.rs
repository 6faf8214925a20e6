//! The oracle: a second implementation of the record layer, close to the text of RFC 8446, to compare the first with.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use tollgate::record::{Suite, TrafficSecret};

/// One direction. Tests seal and open its records one by one, under sequence numbers that they choose.
#[derive(Clone)]
pub struct Oracle {
    suite: Suite,
    secret: Vec<u8>,
    pub sequence: u64,
}

impl Oracle {
    /// Returns a direction with the secret 0, 1, 2 and so on.
    pub fn new(suite: Suite) -> Self {
        Self::with(suite, &(0..suite.secret_len()).map(|n| u8::try_from(n).unwrap()).collect::<Vec<_>>())
    }

    pub fn with(suite: Suite, secret: &[u8]) -> Self {
        Self { suite, secret: secret.to_vec(), sequence: 0 }
    }

    pub fn secret(&self) -> TrafficSecret {
        TrafficSecret::new(self.suite, &self.secret).unwrap()
    }

    fn expand(&self, label: &str, len: usize) -> Vec<u8> {
        let algorithm = if self.suite == Suite::Aes256Gcm { hmac::HMAC_SHA384 } else { hmac::HMAC_SHA256 };
        let label = format!("tls13 {label}");
        let mut info = vec![0, u8::try_from(len).unwrap(), u8::try_from(label.len()).unwrap()];
        info.extend(label.as_bytes());
        // An empty context, and the counter of the only HKDF block: no output here is longer than the hash.
        info.extend([0, 1]);
        hmac::sign(&hmac::Key::new(algorithm, &self.secret), &info).as_ref()[..len].to_vec()
    }

    fn key(&self) -> (LessSafeKey, Nonce) {
        let (algorithm, len) = match self.suite {
            Suite::Aes128Gcm => (&aead::AES_128_GCM, 16),
            Suite::Aes256Gcm => (&aead::AES_256_GCM, 32),
            Suite::ChaCha20Poly1305 => (&aead::CHACHA20_POLY1305, 32),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &self.expand("key", len)).unwrap());
        let iv = self.expand("iv", 12);
        let number = u128::from(self.sequence).to_be_bytes();
        let nonce: Vec<u8> = iv.iter().zip(&number[4..]).map(|(a, b)| a ^ b).collect();
        (key, Nonce::try_assume_unique_for_key(&nonce).unwrap())
    }

    /// Switches to the next secret.
    pub fn update(&mut self) {
        self.secret = self.expand("traffic upd", self.secret.len());
        self.sequence = 0;
    }

    /// Seals an inner plaintext: content, type and padding.
    pub fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let len = u16::try_from(inner.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, len[0], len[1]];
        let (key, nonce) = self.key();
        let mut body = inner.to_vec();
        key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).unwrap();
        self.sequence += 1;
        [&header[..], &body].concat()
    }

    /// Seals content of this type.
    pub fn record(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        self.seal(&[content, &[content_type]].concat())
    }

    /// Removes the first record from `bytes` and opens it under the current secret and number. Returns its content and
    /// type.
    pub fn open(&mut self, bytes: &mut Vec<u8>) -> (Vec<u8>, u8) {
        let len = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        let rest = bytes.split_off(5 + len);
        let mut record = std::mem::replace(bytes, rest);
        let (header, body) = record.split_at_mut(5);
        let (key, nonce) = self.key();
        let inner = key.open_in_place(nonce, Aad::from(&*header), body).expect("the oracle opens what was sealed");
        self.sequence += 1;
        let mut inner = inner.to_vec();
        let content_type = inner.pop().unwrap();
        assert!(inner.len() <= 1 << 14 && content_type != 0);
        (inner, content_type)
    }
}
