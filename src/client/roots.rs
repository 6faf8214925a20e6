//! The root certificates of a client. Those of the system are read once for the process, and not on its workers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use rustls::RootCertStore;

use crate::policy::remote::Roots;
use crate::runtime::clock;
use crate::runtime::tasks::start_blocking;

/// How long the system's roots are not read again after that failed.
const RETRY_AFTER: Duration = Duration::from_secs(10);

static SYSTEM: SystemRoots = SystemRoots::new(read_system);

/// Returns the roots in the form of the TLS library.
///
/// # Errors
/// If no root certificate can be used.
pub async fn store(roots: &Roots) -> Result<Arc<RootCertStore>, String> {
    let Roots::Certificates(certificates) = roots else { return SYSTEM.get(clock::now()).await };
    let mut store = RootCertStore::empty();
    for certificate in certificates.iter() {
        store.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok(Arc::new(store))
}

type Read = Result<Arc<RootCertStore>, String>;

/// The roots of the system, which the first use reads.
struct SystemRoots {
    read: fn() -> Result<RootCertStore, String>,
    /// When the roots were last read, and the result.
    reading: Mutex<Option<(Instant, Shared<BoxFuture<'static, Read>>)>>,
}

impl SystemRoots {
    const fn new(read: fn() -> Result<RootCertStore, String>) -> Self {
        Self { read, reading: Mutex::new(None) }
    }

    /// Returns the roots. All requests share one attempt to read them; an error is kept for [`RETRY_AFTER`].
    fn get(&self, now: Instant) -> Shared<BoxFuture<'static, Read>> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stale = |(since, known): &(Instant, Shared<_>)| {
            matches!(known.peek(), Some(Err(_))) && now.saturating_duration_since(*since) >= RETRY_AFTER
        };
        if reading.as_ref().is_some_and(is_stale) {
            *reading = None;
        }
        let read = self.read;
        let start = || {
            let found = start_blocking("roots", move || read().map(Arc::new));
            let found = async { found.await.unwrap_or_else(|_| Err("they cannot be read".to_owned())) };
            (now, found.boxed().shared())
        };
        reading.get_or_insert_with(start).1.clone()
    }
}

/// Reads the files of the system's roots.
fn read_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // The system may have roots that this TLS library does not support.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let cause = found.errors.first().map(ToString::to_string);
        return Err(cause.unwrap_or_else(|| "the system has none".to_owned()));
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::tests::block_on;
    use super::*;

    #[test]
    fn roots_that_can_be_read_are_read_once() {
        static READ: AtomicUsize = AtomicUsize::new(0);
        let roots = SystemRoots::new(|| {
            READ.fetch_add(1, Ordering::Relaxed);
            Ok(RootCertStore::empty())
        });
        let now = clock::now();
        block_on(async {
            // The first request is dropped, as at its timeout.
            drop(roots.get(now));
            let (first, second) = tokio::join!(roots.get(now), roots.get(now));
            assert!(Arc::ptr_eq(&first.unwrap(), &second.unwrap()));
            roots.get(now + RETRY_AFTER * 100).await.unwrap();
        });
        assert_eq!(READ.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_error_is_kept_for_a_while() {
        static READ: AtomicUsize = AtomicUsize::new(0);
        let roots = SystemRoots::new(|| match READ.fetch_add(1, Ordering::Relaxed) {
            0 => Err("no file".to_owned()),
            _ => Ok(RootCertStore::empty()),
        });
        let now = clock::now();
        block_on(async {
            for _ in 0..100 {
                assert_eq!(roots.get(now).await.unwrap_err(), "no file");
            }
            assert!(roots.get(now + RETRY_AFTER / 2).await.is_err());
            assert!(roots.get(now + RETRY_AFTER).await.is_ok());
        });
        assert_eq!(READ.load(Ordering::Relaxed), 2);
    }
}
