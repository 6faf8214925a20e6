//! Files in memory, for tests: a certificate with its key, and two secrets.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::files::{Content, Files};

pub(crate) struct InMemory(rcgen::CertifiedKey<rcgen::KeyPair>);

impl InMemory {
    /// Creates a certificate for `localhost`.
    pub(crate) fn new() -> Self {
        Self(rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap())
    }
}

impl Files for InMemory {
    fn read(&self, path: &Path) -> io::Result<Content> {
        let text = match path.to_str() {
            Some("chain.pem") => self.0.cert.pem(),
            Some("key.pem") => self.0.signing_key.serialize_pem(),
            Some("secret") => "a secret of thirty-two bytes ...".to_owned(),
            Some("other") => "another secret of thirty-two b. ".to_owned(),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Content { bytes: text.into_bytes(), mode: 0o600 })
    }

    fn credentials(&self) -> Option<PathBuf> {
        None
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
