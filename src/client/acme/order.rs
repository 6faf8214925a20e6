//! One order: the account, the challenge, the certificate request, and the certificate.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use instant_acme::{
    AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
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

/// Timeout for an order.
const ORDER_TIMEOUT: Duration = Duration::from_mins(5);
/// How an order is polled until its challenge was validated, and until the certificate was issued.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_mins(2));
/// How often an order is made again whose nonces were rejected.
const NONCE_RETRIES: u32 = 3;
/// The types of problems (RFC 8555 section 6.7).
const PROBLEM_PREFIX: &str = "urn:ietf:params:acme:error:";
const BAD_NONCE: &str = "badNonce";
const RATE_LIMITED: &str = "rateLimited";
/// Those of an account that gets no order: it is unknown, deactivated, or has to agree to new terms.
const ACCOUNT_PROBLEMS: [&str; 3] = ["accountDoesNotExist", "unauthorized", "userActionRequired"];
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
    /// The certificate authority does not answer, or with something that is not ACME: it issues no certificate.
    Authority(String),
    /// The certificate authority refuses every request for now: its limit is reached, or it fails.
    Refused(String),
    /// There is no account, or it gets no orders: no name of the section gets a certificate.
    Account(String),
    /// The state directory cannot be used: no name gets a certificate.
    Files(String),
    /// The certificate authority gives no certificate for this name.
    Name(String),
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Authority(cause)
        | Self::Refused(cause)
        | Self::Account(cause)
        | Self::Files(cause)
        | Self::Name(cause)) = self;
        f.write_str(cause)
    }
}

/// Why one order gave no certificate.
enum Failed {
    /// It failed.
    Order(FailureCause),
    /// The certificate authority rejected the nonces of one request more often than the library repeats it.
    Nonce,
}

impl Orderer {
    /// Gets a certificate for a name, stores it, and uses it for new handshakes. It answers one challenge: the first one
    /// of these that is offered. A second one would count as a second failure, of which authorities allow a few an hour.
    /// Returns the challenge; `None` if the name was validated before, so that none was necessary.
    ///
    /// # Errors
    /// If there is no certificate. The one in use stays.
    pub async fn order(&self, name: &Arc<str>, kinds: &[ChallengeKind]) -> Result<Option<ChallengeKind>, OrderFailure> {
        let transport = Transport::new(self.client.clone(), self.config.directory.clone());
        let ordering = self.order_by(name, kinds, &transport).await;
        ordering.map_err(|cause| OrderFailure { cause, retry_after: transport.take_retry_after() })
    }

    async fn order_by(
        &self,
        name: &Arc<str>,
        kinds: &[ChallengeKind],
        transport: &Transport,
    ) -> Result<Option<ChallengeKind>, FailureCause> {
        let folder = self.held.folder.clone().ok_or_else(|| FailureCause::Files("there is no state_dir".to_owned()))?;
        blocking({
            let folder = folder.clone();
            move || folder.prepare()
        })
        .await
        .map_err(|error| FailureCause::Files(format!("cannot write to state_dir: {error}")))?;
        for _ in 0..=NONCE_RETRIES {
            match timeout(ORDER_TIMEOUT, self.try_once(name, kinds, &folder, transport)).await {
                Ok(Ok(kind)) => return Ok(kind),
                Ok(Err(Failed::Order(cause))) => return Err(cause),
                Ok(Err(Failed::Nonce)) => {}
                Err(_) => return Err(FailureCause::Name(format!("the order took longer than {ORDER_TIMEOUT:?}"))),
            }
        }
        Err(FailureCause::Authority("the certificate authority rejects its own nonces".to_owned()))
    }

    async fn try_once(
        &self,
        name: &Arc<str>,
        kinds: &[ChallengeKind],
        folder: &Folder,
        transport: &Transport,
    ) -> Result<Option<ChallengeKind>, Failed> {
        let account = account(&self.config, folder, transport).await.map_err(|error| match error {
            AccountError::Authority(error) => failed(&error, FailureCause::Account),
            AccountError::File(error) => Failed::Order(FailureCause::Files(error)),
        })?;
        let of_name = |error: Error| failed(&error, FailureCause::Name);
        let identifiers = [Identifier::Dns(name.to_string())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(|error| {
            account::forget_unknown(folder, &error);
            let is_of_account = ACCOUNT_PROBLEMS.iter().any(|kind| is_problem(&error, kind));
            failed(&error, if is_of_account { FailureCause::Account } else { FailureCause::Name })
        })?;
        let kind = self.validate(&mut order, name, kinds).await?;
        let (key, request) = certificate_request(name).map_err(|error| Failed::Order(FailureCause::Name(error)))?;
        order.finalize_csr(&request).await.map_err(of_name)?;
        let chain = order.poll_certificate(&POLLING).await.map_err(of_name)?;
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
        Ok(kind)
    }

    /// Answers the first challenge of these kinds that is offered, and waits until it was validated. An authorization may
    /// be valid already. Returns the kind; `None` if none was answered.
    async fn validate(
        &self,
        order: &mut Order,
        name: &Arc<str>,
        kinds: &[ChallengeKind],
    ) -> Result<Option<ChallengeKind>, Failed> {
        let unanswered = |cause: String| Failed::Order(FailureCause::Name(cause));
        let mut used = None;
        let mut presented = None;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| failed(&error, FailureCause::Name))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let is_offered =
                |kind: &ChallengeKind| authorization.challenges.iter().any(|own| own.r#type == challenge_type(*kind));
            let offered = kinds.iter().copied().find(is_offered);
            let challenge = offered.and_then(|kind| Some((kind, authorization.challenge(challenge_type(kind))?)));
            let Some((kind, mut challenge)) = challenge else {
                return Err(unanswered(format!("the certificate authority does not offer {}", either(kinds))));
            };
            used = Some(kind);
            let key = challenge.key_authorization();
            presented = Some(match kind {
                ChallengeKind::Http01 => self.challenges.present_http(name, &challenge.token, key.as_str()),
                ChallengeKind::TlsAlpn01 => {
                    let digest = key.digest();
                    let digest = digest.as_ref().try_into().map_err(|_| "the digest has a wrong length".to_owned());
                    let presenting = digest.and_then(|digest| self.challenges.present_tls(name, digest));
                    presenting.map_err(unanswered)?
                }
            });
            challenge.set_ready().await.map_err(|error| failed(&error, named(used)))?;
        }
        let polled = order.poll_ready(&POLLING).await;
        drop(presented);
        match polled {
            Ok(OrderStatus::Ready) => Ok(used),
            Ok(_) => Err(Failed::Order(named(used)(reason(order).await))),
            Err(error) => Err(failed(&error, named(used))),
        }
    }
}

fn challenge_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// Returns the cause of a challenge that was not validated.
fn named(kind: Option<ChallengeKind>) -> impl Fn(String) -> FailureCause {
    move |cause| {
        FailureCause::Name(match kind {
            Some(kind) => format!("{kind}: {cause}"),
            None => cause,
        })
    }
}

fn either(kinds: &[ChallengeKind]) -> String {
    kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
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

/// Returns what failed. `refused` is the cause if the certificate authority refuses this request, and could take others.
fn failed(error: &Error, refused: impl FnOnce(String) -> FailureCause) -> Failed {
    if is_problem(error, BAD_NONCE) {
        return Failed::Nonce;
    }
    let text = describe(error);
    Failed::Order(match error {
        error if is_problem(error, RATE_LIMITED) => FailureCause::Refused(text),
        Error::Other(cause) => match cause.downcast_ref::<TransportError>() {
            Some(TransportError::Status(status, _)) if is_temporary(*status) => FailureCause::Refused(text),
            Some(_) => FailureCause::Authority(text),
            None => refused(text),
        },
        Error::Http(_) | Error::Json(_) | Error::InvalidUri(_) => FailureCause::Authority(text),
        _ => refused(text),
    })
}

fn is_temporary(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn is_problem(error: &Error, kind: &str) -> bool {
    let Error::Api(Problem { r#type: Some(known), .. }) = error else { return false };
    known.strip_prefix(PROBLEM_PREFIX) == Some(kind)
}

fn describe(error: &Error) -> String {
    match error {
        // Its message says what the library expected.
        Error::Json(_) => "the certificate authority answers with something that is not ACME".to_owned(),
        Error::Timeout(_) => "the certificate authority did not decide in time".to_owned(),
        error => with_advice(limit(&causes(error))),
    }
}

/// Adds to an error of TLS what to set.
fn with_advice(mut error: String) -> String {
    if error.contains("UnknownIssuer") {
        error.push_str(" (`ca` of the [acme] section names the roots of the certificate authority's own certificate)");
    }
    error
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_issuer_of_the_authority_has_advice() {
        let advised = with_advice("invalid peer certificate: UnknownIssuer".to_owned());
        assert!(
            advised.starts_with("invalid peer certificate: UnknownIssuer (`ca` of the [acme] section"),
            "{advised}"
        );
        assert_eq!(with_advice("connection refused".to_owned()), "connection refused");
    }
}
