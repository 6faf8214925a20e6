//! Reads the table `tls` of an upstream: how connections to its servers are protected.

use std::sync::Arc;

use rustls_pki_types::ServerName;

use super::diagnostic::{Diagnostic, quote};
use super::file::{Parsed, Section};
use super::files::FileLoader;
use super::keys::{self, Key};
use super::{certificate, key_source};
use crate::balance::{ClientCertificate, ServerConfig, TlsMinVersion, UpstreamTls};

/// Reads the table, if the upstream has one. These are its servers.
#[expect(clippy::option_option, reason = "an error and an absent key are different")]
pub(super) fn read(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    servers: &[ServerConfig],
) -> Option<Option<Arc<UpstreamTls>>> {
    if section.key_span(&keys::UPSTREAM_TLS).is_none() {
        return Some(None);
    }
    let tls = section.child("upstream.tls");
    let roots = key_source::roots(&tls, folder, &keys::UPSTREAM_CA);
    let server_name = server_name(&tls);
    let certificate = client_certificate(&tls, folder);
    let versions = [("1.2", TlsMinVersion::Tls12), ("1.3", TlsMinVersion::Tls13)];
    let min_version = tls.choice(&keys::UPSTREAM_MIN_VERSION, &versions);
    let server_name = server_name?;
    if server_name.is_none() {
        check_hosts(section, servers)?;
    }
    let (roots, certificate, min_version) = (roots?, certificate?, min_version?.value);
    Some(Some(Arc::new(UpstreamTls { roots, server_name, certificate, min_version })))
}

fn server_name(tls: &Section<'_>) -> Parsed<Option<ServerName<'static>>> {
    if tls.key_span(&keys::UPSTREAM_SERVER_NAME).is_none() {
        return Some(None);
    }
    let text = tls.text(&keys::UPSTREAM_SERVER_NAME)?;
    let name = text.strip_suffix('.').unwrap_or(&text);
    if let Ok(name) = ServerName::try_from(name) {
        return Some(Some(name.to_owned()));
    }
    tls.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("{} cannot be the value of `server_name`", quote(&text)))
            .label("expected a host name or an IP address, without a port"),
    );
    None
}

/// Checks that a certificate can have the host of each server.
fn check_hosts(section: &Section<'_>, servers: &[ServerConfig]) -> Option<()> {
    let Some(server) = servers.iter().find(|server| server.address.certificate_name().is_none()) else {
        return Some(());
    };
    let address = server.address.to_string();
    section.diagnostics.push(
        Diagnostic::error(section.key_span(&keys::UPSTREAM_TLS)?, "`tls` needs `server_name`")
            .label(format!("no certificate can have the address {} as its name", quote(&address))),
    );
    None
}

fn client_certificate(tls: &Section<'_>, folder: &FileLoader<'_>) -> Parsed<Option<ClientCertificate>> {
    let (certificate, key) = (&keys::UPSTREAM_CERTIFICATE, &keys::UPSTREAM_KEY);
    match (tls.key_span(certificate), tls.key_span(key)) {
        (None, None) => Some(None),
        (Some(_), Some(_)) => certificate::read_client(tls, folder).map(Some),
        (Some(_), None) => lacks(tls, certificate, key),
        (None, Some(_)) => lacks(tls, key, certificate),
    }
}

fn lacks<T>(tls: &Section<'_>, key: &Key, other: &Key) -> Parsed<T> {
    let message = format!("`{}` needs `{}`", key.name, other.name);
    tls.diagnostics.push(
        Diagnostic::error(tls.key_span(key)?, message).label("a client certificate has a chain and a private key"),
    );
    None
}
