//! One order: the account, the challenge, the certificate request, and the certificate.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::account::{self, AccountError, account};
use super::challenge::{ChallengeKind, Challenges};
use super::folder::Folder;
use super::held::{Held, file_name, has_name, parse_stored, stored};
use super::transport::{Transport, TransportError};
use crate::client::HttpClient;
use crate::client::http_client::causes;
use crate::config::{AcmeConfig, Certificate};
use crate::runtime::clock;
use crate::runtime::tasks::start_blocking;

/// Timeout for an order with one challenge.
const ORDER_TIMEOUT: Duration = Duration::from_mins(5);
/// How an order is polled until its challenge was validated, and until the certificate was issued.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_mins(2));
/// How often an order is made again whose nonces were rejected.
const NONCE_RETRIES: u32 = 3;
/// The type of that problem.
const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
/// The longest text of a certificate authority that a message shows, in characters.
const TEXT_MAX_CHARS: usize = 400;

/// Gets certificates for the names of a section, one at a time.
#[derive(Debug)]
pub struct Orderer {
    /// The section.
    pub config: Arc<AcmeConfig>,
    /// Its certificates.
    pub held: Arc<Held>,
    /// The challenge that listeners answer.
    pub challenges: Arc<Challenges>,
    /// The client for the certificate authority.
    pub client: HttpClient,
}

/// An order that gave no certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct OrderFailure {
    /// Why.
    pub cause: FailureCause,
    /// How long the certificate authority demanded to wait.
    pub retry_after: Option<Duration>,
}

/// Why an order gave no certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// The certificate authority does not answer, or gives no account: no name of the section gets a certificate.
    Authority(String),
    /// The state directory cannot be used: no name gets a certificate.
    Files(String),
    /// The certificate authority gives no certificate for this name.
    Name(String),
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Authority(cause) | Self::Files(cause) | Self::Name(cause)) = self;
        f.write_str(cause)
    }
}

/// Why one challenge gave no certificate.
enum Failed {
    /// The order failed for a reason that another challenge would meet, too.
    Order(FailureCause),
    /// This challenge was not offered, or not validated.
    Challenge(String),
    /// The certificate authority rejected the nonces of one request more often than the library repeats it.
    Nonce,
}

impl Orderer {
    /// Gets a certificate for a name, stores it, and uses it for new handshakes. The challenges are tried in this order.
    /// Returns the one that was validated.
    ///
    /// # Errors
    /// If there is no certificate. The one in use stays.
    pub async fn order(&self, name: &Arc<str>, kinds: &[ChallengeKind]) -> Result<ChallengeKind, OrderFailure> {
        let transport = Transport::new(self.client.clone(), self.config.directory.clone());
        let ordering = self.try_challenges(name, kinds, &transport).await;
        ordering.map_err(|cause| OrderFailure { cause, retry_after: transport.take_retry_after() })
    }

    async fn try_challenges(
        &self,
        name: &Arc<str>,
        kinds: &[ChallengeKind],
        transport: &Transport,
    ) -> Result<ChallengeKind, FailureCause> {
        let folder = self.held.folder.clone().ok_or_else(|| FailureCause::Files("there is no state_dir".to_owned()))?;
        blocking({
            let folder = folder.clone();
            move || folder.prepare()
        })
        .await
        .map_err(|error| FailureCause::Files(format!("cannot write to state_dir: {error}")))?;
        let mut failures = Vec::new();
        let mut nonces_left = NONCE_RETRIES;
        let mut kinds = kinds.iter();
        let mut next = kinds.next();
        while let Some(kind) = next {
            let trying = timeout(ORDER_TIMEOUT, self.try_challenge(name, *kind, &folder, transport));
            match trying.await {
                Ok(Ok(())) => return Ok(*kind),
                Ok(Err(Failed::Order(cause))) => return Err(cause),
                Ok(Err(Failed::Challenge(cause))) => failures.push(format!("{kind}: {cause}")),
                Ok(Err(Failed::Nonce)) if nonces_left > 0 => {
                    nonces_left -= 1;
                    continue;
                }
                Ok(Err(Failed::Nonce)) => {
                    return Err(FailureCause::Authority("the certificate authority rejects its own nonces".to_owned()));
                }
                Err(_) => failures.push(format!("{kind}: the order took longer than {ORDER_TIMEOUT:?}")),
            }
            next = kinds.next();
        }
        Err(FailureCause::Name(failures.join("; ")))
    }

    async fn try_challenge(
        &self,
        name: &Arc<str>,
        kind: ChallengeKind,
        folder: &Folder,
        transport: &Transport,
    ) -> Result<(), Failed> {
        let account = account(&self.config, folder, transport).await.map_err(|error| match error {
            AccountError::Authority(error) if is_bad_nonce(&error) => Failed::Nonce,
            AccountError::Authority(error) => authority(&error),
            AccountError::File(error) => Failed::Order(FailureCause::Files(error)),
        })?;
        let failed = |error: Error| {
            if is_bad_nonce(&error) {
                return Failed::Nonce;
            }
            if account::forget_unknown(folder, &error) || is_of_transport(&error) {
                return authority(&error);
            }
            Failed::Order(FailureCause::Name(describe(&error)))
        };
        let identifiers = [Identifier::Dns(name.to_string())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(failed)?;
        self.validate(&mut order, name, kind).await?;
        let (key, request) = certificate_request(name).map_err(|error| Failed::Order(FailureCause::Name(error)))?;
        order.finalize_csr(&request).await.map_err(failed)?;
        let chain = order.poll_certificate(&POLLING).await.map_err(failed)?;
        let content = stored(&key, &chain);
        let certificate = check(&content, name).map_err(|error| {
            let message = format!("the certificate authority issued a certificate that cannot be used: {error}");
            Failed::Order(FailureCause::Name(message))
        })?;
        let (writing, file) = (folder.clone(), file_name(name));
        let written = blocking(move || writing.write(&file, &content)).await;
        // It is used even if it is lost with the process: the next order may be refused.
        self.held.install(name, certificate);
        if let Err(error) = written {
            let (name, acme) = (&**name, &*self.config.name);
            tracing::error!(name, acme, %error, "a certificate is in use but could not be stored in state_dir");
        }
        Ok(())
    }

    /// Answers the challenge of this kind until it was validated. An authorization may be valid already.
    async fn validate(&self, order: &mut Order, name: &Arc<str>, kind: ChallengeKind) -> Result<(), Failed> {
        let failed = |error: Error| match error {
            error if is_of_transport(&error) => authority(&error),
            error if is_bad_nonce(&error) => Failed::Nonce,
            error => Failed::Challenge(describe(&error)),
        };
        let mut presented = None;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let offered = authorization.challenge(match kind {
                ChallengeKind::Http01 => ChallengeType::Http01,
                ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
            });
            let Some(mut challenge) = offered else {
                return Err(Failed::Challenge("the certificate authority does not offer it".to_owned()));
            };
            let key = challenge.key_authorization();
            presented = Some(match kind {
                ChallengeKind::Http01 => self.challenges.present_http(name, &challenge.token, key.as_str()),
                ChallengeKind::TlsAlpn01 => {
                    let digest = key.digest();
                    let digest = digest.as_ref().try_into().map_err(|_| "the digest has a wrong length".to_owned());
                    let presenting = digest.and_then(|digest| self.challenges.present_tls(name, digest));
                    presenting.map_err(Failed::Challenge)?
                }
            });
            challenge.set_ready().await.map_err(failed)?;
        }
        let polled = order.poll_ready(&POLLING).await;
        drop(presented);
        match polled {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(Failed::Challenge(reason(order).await)),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Fetches the directory of a section, as `check --online` does.
///
/// # Errors
/// If there is none.
pub async fn check_directory(config: &AcmeConfig) -> Result<(), String> {
    let transport = Transport::new(HttpClient::new(&config.roots, 1), config.directory.clone());
    transport.check_directory().await.map_err(|error| error.to_string())
}

/// Returns why an order became invalid, as its challenges say.
async fn reason(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            break;
        }
        if let Some(problem) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return limit(&problem.to_string());
        }
    }
    "the certificate authority rejected it without a reason".to_owned()
}

/// Returns a new key in PEM, and the request for a certificate with this name as the only one.
fn certificate_request(name: &str) -> Result<(Zeroizing<String>, Vec<u8>), String> {
    let describe = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(describe)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(describe)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(describe)?;
    Ok((Zeroizing::new(key.serialize_pem()), request.der().to_vec()))
}

/// Checks a certificate before it replaces the one in use.
fn check(content: &[u8], name: &str) -> Result<Certificate, String> {
    let certificate = parse_stored(content)?;
    has_name(&certificate, name)?;
    let now = clock::unix().and_then(|now| SystemTime::UNIX_EPOCH.checked_add(now));
    if now.is_some_and(|now| !certificate.is_valid(now)) {
        return Err("it is not valid now".to_owned());
    }
    Ok(certificate)
}

/// Runs work that waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    start_blocking("acme", work).await.unwrap_or_else(|_| Err(std::io::Error::other("the system provides no thread")))
}

fn authority(error: &Error) -> Failed {
    Failed::Order(FailureCause::Authority(describe(error)))
}

/// Whether the certificate authority rejected a nonce (RFC 8555 section 6.5).
fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if problem.r#type.as_deref() == Some(BAD_NONCE))
}

/// Whether the certificate authority gave no answer that is one of ACME.
fn is_of_transport(error: &Error) -> bool {
    match error {
        Error::Other(cause) => cause.is::<TransportError>(),
        Error::Http(_) | Error::Json(_) | Error::InvalidUri(_) => true,
        _ => false,
    }
}

fn describe(error: &Error) -> String {
    match error {
        // Its message says what the library expected.
        Error::Json(_) => "the certificate authority answers with something that is not ACME".to_owned(),
        Error::Timeout(_) => "the certificate authority did not decide in time".to_owned(),
        error => limit(&causes(error)),
    }
}

/// Limits a text of a certificate authority.
fn limit(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut limited: String = shown.take(TEXT_MAX_CHARS).collect();
    if text.chars().nth(TEXT_MAX_CHARS).is_some() {
        limited.push_str("...");
    }
    limited
}
