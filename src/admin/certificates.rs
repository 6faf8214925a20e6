//! `GET /v1/certificates`: the certificates in use, and when they expire.

use std::time::{Duration, SystemTime};

use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::state::Shared;
use super::view::rfc3339;
use crate::config::SettingSection;
use crate::runtime::clock;

const DAY: Duration = Duration::from_hours(24);

/// The certificates.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CertificateList {
    /// The certificates of all listeners, the first to expire first.
    certificates: Vec<ListedCertificate>,
}

/// A certificate of a listener.
#[derive(Debug, Serialize, ToSchema)]
struct ListedCertificate {
    /// Its DNS names; empty if it has only IP addresses.
    names: Vec<String>,
    /// The end of its validity (RFC 3339); null if ACME has not got it yet, so that clients of the name cannot connect.
    expires: Option<String>,
    /// The days until then; negative afterwards; null without a certificate, or if the clock of the machine is wrong.
    days_left: Option<f64>,
    /// The address of the listener.
    listener: String,
    /// The line of the listener's `certificates` or `acme`.
    line: Option<usize>,
}

/// Lists the certificates.
#[utoipa::path(
    get,
    path = "/v1/certificates",
    tag = "configuration",
    responses((status = 200, description = "The certificates", body = CertificateList))
)]
pub(super) async fn list(Extract(state): Shared) -> axum::Json<CertificateList> {
    let snapshot = state.control.gateway().snapshot();
    let mut certificates = Vec::new();
    for (address, listener) in snapshot.listeners() {
        let written = listener.address.to_string();
        let found = snapshot.setting_lines().find(SettingSection::Listener(&written), "certificates");
        let line = found.map(|found| found.line);
        for certificate in listener.certificates() {
            let expires = certificate.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let listed = ListedCertificate {
                names: certificate.names.clone(),
                expires: rfc3339(expires),
                days_left: clock::unix().map(|now| days(expires) - days(now)),
                listener: address.to_string(),
                line,
            };
            certificates.push((expires, listed));
        }
        let Some(section) = snapshot.acme(listener) else { continue };
        let found = snapshot.setting_lines().find(SettingSection::Listener(&written), "acme");
        for name in &section.config.names {
            let expires = section.held.certificate(name).map(|held| held.ends());
            let listed = ListedCertificate {
                names: vec![name.to_string()],
                expires: expires.and_then(rfc3339),
                days_left: clock::unix().zip(expires).map(|(now, expires)| days(expires) - days(now)),
                listener: address.to_string(),
                line: found.map(|found| found.line),
            };
            certificates.push((expires.unwrap_or_default(), listed));
        }
    }
    certificates.sort_by_key(|(expires, _)| *expires);
    axum::Json(CertificateList { certificates: certificates.into_iter().map(|(_, listed)| listed).collect() })
}

fn days(span: Duration) -> f64 {
    span.as_secs_f64() / DAY.as_secs_f64()
}
