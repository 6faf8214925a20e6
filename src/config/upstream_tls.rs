//! Reads the table `tls` of an upstream: how connections to its servers are protected.

use std::sync::Arc;

use rustls_pki_types::ServerName;

use super::diagnostic::{Diagnostic, quote};
use super::discover::Servers;
use super::file::{Parsed, Section};
use super::files::FileLoader;
use super::keys::{self, Key};
use super::{certificate, key_source};
use crate::balance::{ClientCertificate, Discover, TlsMinVersion, UpstreamTls};

/// Reads the table, if the upstream has one. These are its servers, unless they have an error.
#[expect(clippy::option_option, reason = "an error and an absent key are different")]
pub(super) fn read(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    servers: Option<&Servers>,
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
    let mut server_name = server_name?;
    if let (None, Some(servers)) = (&server_name, servers) {
        server_name = default_name(section, servers)?;
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

/// Returns the name of all servers without `server_name`: that of `discover`; `None` if each has the host of its address.
/// An answer of DNS may be forged, so the targets of SRV records name no certificate.
fn default_name(section: &Section<'_>, servers: &Servers) -> Parsed<Option<ServerName<'static>>> {
    let label = match &servers.discover {
        Some(Discover::Addresses { host, .. }) => {
            let host = host.strip_suffix('.').unwrap_or(host);
            match ServerName::try_from(host) {
                Ok(name) => return Some(Some(name.to_owned())),
                Err(_) => format!("no certificate can have the name {}", quote(host)),
            }
        }
        Some(Discover::Services(_)) => "the targets of SRV records are not trusted as names".to_owned(),
        Some(Discover::InFile(_)) | None => {
            let nameless = servers.servers.iter().find(|server| server.address.certificate_name().is_none());
            let Some(server) = nameless else { return Some(None) };
            let address = server.address.to_string();
            format!("no certificate can have the address {} as its name", quote(&address))
        }
    };
    let span = section.key_span(&keys::UPSTREAM_TLS)?;
    section.diagnostics.push(Diagnostic::error(span, "`tls` needs `server_name`").label(label));
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
