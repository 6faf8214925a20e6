//! Formats the identity of clients for the log: plain, hashed or omitted.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::config::{LogConfig, Shown};

/// The form in which the log shows subjects and client addresses.
pub struct Identities {
    subject: Shown,
    address: Shown,
    /// Random for each process, so that hashes of different processes cannot be compared, and an address cannot be
    /// found by hashing all addresses.
    key: hmac::Key,
    /// The same, for the process that follows this one.
    secret: Zeroizing<[u8; 32]>,
}

impl Identities {
    /// Takes the forms from the configuration. `key` must be random: it keys the hashes.
    pub fn new(config: &LogConfig, key: [u8; 32]) -> Self {
        let secret = Zeroizing::new(key);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*secret);
        Self { subject: config.subject, address: config.address, key, secret }
    }

    /// Returns the key, so that the process that follows this one writes the same hashes.
    pub fn export(&self) -> Zeroizing<[u8; 32]> {
        self.secret.clone()
    }

    /// Returns a token's subject in its configured form; `None` if it is absent or omitted.
    pub fn subject(&self, subject: Option<&str>) -> Option<String> {
        self.show(self.subject, subject?)
    }

    /// Returns a client's address in its configured form; `None` if it is omitted.
    pub fn address(&self, address: IpAddr) -> Option<String> {
        self.show(self.address, &address.to_string())
    }

    fn show(&self, shown: Shown, text: &str) -> Option<String> {
        match shown {
            Shown::Plain => Some(text.to_owned()),
            Shown::Omit => None,
            // 64 bits of the hash are enough to distinguish a million clients.
            Shown::Hash => {
                let hash = hmac::sign(&self.key, text.as_bytes());
                let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
                Some(format!("{:016x}", u64::from_be_bytes(first)))
            }
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("subject", &self.subject)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn identities(shown: Shown, key: u8) -> Identities {
        let log = LogConfig { subject: shown, address: shown, ..crate::telemetry::test_config() };
        Identities::new(&log, [key; 32])
    }

    #[test]
    fn identities_are_plain_hashed_or_omitted() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let plain = identities(Shown::Plain, 1);
        assert_eq!(plain.subject(Some("ann")).as_deref(), Some("ann"));
        assert_eq!(plain.address(address).as_deref(), Some("192.0.2.7"));
        let omitted = identities(Shown::Omit, 1);
        assert_eq!((omitted.subject(Some("ann")), omitted.address(address)), (None, None));
        let hashed = identities(Shown::Hash, 1);
        let ann = hashed.subject(Some("ann")).unwrap();
        assert_eq!(ann.len(), 16);
        assert_eq!(hashed.subject(Some("ann")).unwrap(), ann, "the hash of a subject is stable");
        assert_ne!(hashed.subject(Some("bob")).unwrap(), ann);
        assert_ne!(identities(Shown::Hash, 2).subject(Some("ann")).unwrap(), ann, "hashes are keyed per process");
        assert_eq!(hashed.subject(None), None);
    }
}
