//! The certificates of `[acme.NAME]` sections, as handshakes use them. A renewed one replaces its predecessor for new
//! handshakes only.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

use super::challenge::Challenges;
use super::folder::Folder;
use super::refusal::Refusal;
use super::schedule::renewal;
use crate::config::{AcmeConfig, Certificate, parse_certificate};
use crate::policy::remote::HttpUrl;
use crate::runtime::clock;
use crate::runtime::entropy::random;

/// The time after which it is logged again that handshakes for a name fail because it has no certificate.
const MISSING_LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The certificates of all sections, and the challenge in progress. They outlive every snapshot.
#[derive(Debug, Default)]
pub struct HeldSections {
    sections: Mutex<Vec<Arc<Held>>>,
    challenges: Arc<Challenges>,
}

/// The certificates of one section. Its configuration may change, but not its certificate authority.
#[derive(Debug)]
pub struct Held {
    section: Arc<str>,
    directory: HttpUrl,
    /// Where they are stored; `None`: there is no `state_dir`.
    pub(super) folder: Option<Folder>,
    /// By name, in lower case. The number of names is that of the configuration.
    by_name: ArcSwap<HashMap<Arc<str>, Entry>>,
    issued: AtomicU64,
    failed: AtomicU64,
}

/// A name, and its certificate if there is one.
#[derive(Debug, Clone)]
struct Entry {
    name: Arc<str>,
    certificate: Option<HeldCertificate>,
    /// When it was last logged that there is none.
    logged: Arc<Mutex<Option<Instant>>>,
}

/// A certificate, and when it is to be renewed.
#[derive(Debug, Clone)]
pub struct HeldCertificate {
    /// The certificate.
    pub certificate: Arc<Certificate>,
    /// The time of its renewal, since the Unix epoch.
    pub renews: Duration,
}

impl HeldCertificate {
    /// Whether it is valid at this time since the Unix epoch.
    pub fn is_valid(&self, now: Duration) -> bool {
        SystemTime::UNIX_EPOCH.checked_add(now).is_some_and(|now| self.certificate.is_valid(now))
    }

    /// Returns the end of its validity, since the Unix epoch.
    pub fn ends(&self) -> Duration {
        self.certificate.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

/// The certificate for a handshake.
#[derive(Debug)]
pub enum Found {
    /// This one.
    Certificate(Arc<CertifiedKey>),
    /// The name has none yet, or the section has none at all.
    Missing,
}

impl HeldSections {
    /// Returns the challenge that listeners answer.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// Returns the certificates of a section, and reads those of its names that are not known yet. This blocks for a
    /// few small files.
    pub fn section(&self, config: &AcmeConfig, state_dir: Option<&Path>) -> Arc<Held> {
        let mut sections = self.lock();
        let known = sections.iter().find(|held| held.is_of(config)).cloned();
        let held = known.unwrap_or_else(|| {
            let held = Arc::new(Held::new(config, state_dir));
            sections.push(Arc::clone(&held));
            held
        });
        config.names.iter().for_each(|name| held.add(name));
        held
    }

    /// Drops the sections and names that these configurations lack.
    pub fn retain<'a>(&self, configs: &(impl Iterator<Item = &'a Arc<AcmeConfig>> + Clone)) {
        self.lock().retain(|held| {
            let config = configs.clone().find(|config| held.is_of(config));
            config.inspect(|config| held.retain(&config.names)).is_some()
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Held>>> {
        // The list is consistent after every step.
        self.sections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn new(config: &AcmeConfig, state_dir: Option<&Path>) -> Self {
        Self {
            section: Arc::clone(&config.name),
            directory: config.directory.clone(),
            folder: state_dir.map(|directory| Folder::new(directory, config)),
            by_name: ArcSwap::default(),
            issued: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn is_of(&self, config: &AcmeConfig) -> bool {
        self.section == config.name && self.directory == config.directory
    }

    /// Returns the certificate for a handshake at this time since the Unix epoch. A client that requests no name, or one
    /// that is not of the section, gets any valid certificate. A name of the section never gets that of another one.
    pub fn find(&self, name: Option<&str>, now: Duration) -> Found {
        let by_name = self.by_name.load();
        let entry = name.and_then(|name| match by_name.get(name) {
            None if name.bytes().any(|byte| byte.is_ascii_uppercase()) => by_name.get(&*name.to_ascii_lowercase()),
            found => found,
        });
        let key = |held: &HeldCertificate| Found::Certificate(Arc::clone(&held.certificate.key));
        if let Some(entry) = entry {
            return entry.certificate.as_ref().map_or_else(|| self.missing(entry), key);
        }
        let mut valid: Vec<&Entry> =
            by_name.values().filter(|entry| entry.certificate.iter().any(|held| held.is_valid(now))).collect();
        // The same for every client.
        valid.sort_by(|a, b| a.name.cmp(&b.name));
        valid.first().and_then(|entry| entry.certificate.as_ref()).map_or(Found::Missing, key)
    }

    fn missing(&self, entry: &Entry) -> Found {
        let (mut logged, now) = (entry.logged.lock().unwrap_or_else(PoisonError::into_inner), clock::now());
        if logged.is_none_or(|at| now.saturating_duration_since(at) >= MISSING_LOG_INTERVAL) {
            *logged = Some(now);
            let (name, acme) = (&*entry.name, &*self.section);
            tracing::warn!(name, acme, "handshakes for this name fail: it has no certificate yet");
        }
        Found::Missing
    }

    /// Returns the certificate of a name.
    pub fn certificate(&self, name: &str) -> Option<HeldCertificate> {
        self.by_name.load().get(name)?.certificate.clone()
    }

    /// Reads the stored certificate of a name again, and returns the one that is in use then.
    pub fn read_again(&self, name: &Arc<str>) -> Option<HeldCertificate> {
        self.read_stored(name);
        self.certificate(name)
    }

    /// Uses a certificate for new handshakes.
    pub(super) fn install(&self, name: &Arc<str>, certificate: Certificate) {
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (start, end) = (since(certificate.not_before), since(certificate.not_after));
        let renews = renewal(start, end, u64::from_be_bytes(random()));
        let held = HeldCertificate { certificate: Arc::new(certificate), renews };
        self.change(|by_name| {
            by_name.insert(Arc::clone(name), Entry::new(name, Some(held.clone())));
        });
    }

    /// Counts an order.
    pub fn count_order(&self, is_issued: bool) {
        let count = if is_issued { &self.issued } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of orders that gave a certificate, and of those that failed.
    pub fn orders(&self) -> (u64, u64) {
        (self.issued.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Returns the stored refusal of all orders. This blocks for a small file.
    pub fn refusal(&self) -> Option<Refusal> {
        Refusal::read(self.folder.as_ref()?)
    }

    /// Stores the refusal of all orders, or removes it. This blocks for a small file.
    pub fn store_refusal(&self, refusal: Option<Refusal>) {
        if let Some(Err(error)) = self.folder.as_ref().map(|folder| Refusal::write(refusal, folder)) {
            let acme = &*self.section;
            tracing::warn!(acme, %error, "cannot store in state_dir how long the certificate authority refuses orders");
        }
    }

    fn add(&self, name: &Arc<str>) {
        if self.by_name.load().contains_key(name) {
            return;
        }
        self.change(|by_name| {
            by_name.insert(Arc::clone(name), Entry::new(name, None));
        });
        self.read_stored(name);
    }

    fn retain(&self, names: &[Arc<str>]) {
        if self.by_name.load().keys().any(|name| !names.contains(name)) {
            self.change(|by_name| by_name.retain(|name, _| names.contains(name)));
        }
    }

    fn change(&self, change: impl Fn(&mut HashMap<Arc<str>, Entry>)) {
        self.by_name.rcu(|by_name| {
            let mut next = HashMap::clone(by_name);
            change(&mut next);
            next
        });
    }

    /// Uses the stored certificate of a name if it lasts longer than the one in use. A file that cannot be used is
    /// reported and renamed.
    fn read_stored(&self, name: &Arc<str>) {
        let Some(folder) = &self.folder else { return };
        let file = file_name(name);
        let shown = folder.path(&file).display().to_string();
        let content = match folder.read(&file) {
            Ok(Some(content)) => content,
            Ok(None) => return,
            Err(error) => return tracing::error!(file = shown, %error, "cannot read a certificate in state_dir"),
        };
        match parse_stored(&content).and_then(|stored| has_name(&stored, name).map(|()| stored)) {
            Ok(stored) => {
                let known = self.certificate(name);
                if known.is_none_or(|known| known.certificate.not_after < stored.not_after) {
                    self.install(name, stored);
                }
            }
            Err(error) => match folder.set_aside(&file, "damaged") {
                Ok(aside) => {
                    let copy = aside.display();
                    tracing::error!(file = shown, error, %copy, "a certificate in state_dir is damaged: it is renamed");
                }
                Err(cause) => tracing::error!(file = shown, error, %cause, "a certificate in state_dir is damaged"),
            },
        }
    }
}

impl Entry {
    fn new(name: &Arc<str>, certificate: Option<HeldCertificate>) -> Self {
        Self { name: Arc::clone(name), certificate, logged: Arc::default() }
    }
}

/// Returns the name of the file with the certificate of a host name, which has no slash.
pub(super) fn file_name(name: &str) -> String {
    format!("{name}.pem")
}

/// Returns the content of the file with a certificate: the chain, and its key at the end, which a cut file lacks.
pub(super) fn stored(key: &str, chain: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([chain.trim_end(), "\n", key].concat().into_bytes())
}

pub(super) fn parse_stored(content: &[u8]) -> Result<Certificate, String> {
    // The PEM reader skips sections of other kinds.
    let has_end = <(SectionKind, Vec<u8>)>::pem_slice_iter(content).all(|section| section.is_ok());
    if !has_end {
        return Err("it is not PEM, or a part of it is missing".to_owned());
    }
    parse_certificate(content, content)
}

/// Checks that a certificate is for a name.
pub(super) fn has_name(certificate: &Certificate, name: &str) -> Result<(), String> {
    let has = certificate.names.iter().any(|own| own == name);
    if has { Ok(()) } else { Err(format!("it is a certificate for other names than {name}")) }
}
