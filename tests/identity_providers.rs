//! The samples of `config/identity-providers.md`: each configuration admits the token that is printed below it, and
//! rejects the token as soon as a claim that the configuration checks differs.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use serde_json::{Value, json};
use tollgate::client::KeySets;
use tollgate::config::{self, Config, Content, Files};
use tollgate::front::snapshot::{Snapshot, SnapshotContext};
use tollgate::policy::admission::{Admission, Clocks};
use tollgate::policy::forwarded::Scheme;
use tollgate::policy::request::{RequestFacts, RequestKind};
use tollgate::runtime::clock;

/// A time at which the tokens of the page are valid.
const NOW: Duration = Duration::from_secs(1_800_000_060);

/// The sections that the samples leave out.
const AROUND: &str = "
[[listener]]
address = \"127.0.0.1:443\"
certificates = [{ chain = \"chain.pem\", key = \"key.pem\" }]
[upstream.chat]
servers = [\"127.0.0.1:9001\"]
";

/// A sample: the heading above it, its configuration and its token.
struct Sample {
    name: String,
    toml: String,
    token: Value,
}

/// Reads the samples of the page.
fn samples() -> Vec<Sample> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/identity-providers.md");
    let page = std::fs::read_to_string(page).unwrap();
    let block = |section: &str, language: &str| {
        let (_, rest) = section.split_once(&format!("```{language}\n"))?;
        Some(rest.split_once("```").unwrap().0.to_owned())
    };
    let samples = page.split("\n## ").skip(1).map(|section| Sample {
        name: section.lines().next().unwrap().to_owned(),
        toml: block(section, "toml").unwrap(),
        token: serde_json::from_str(&block(section, "json").unwrap()).unwrap(),
    });
    samples.collect()
}

/// Returns the key of the provider.
fn key() -> &'static RsaKeyPair {
    static KEY: OnceLock<RsaKeyPair> = OnceLock::new();
    KEY.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

/// Returns the key set of the provider, with the members that these providers add to a key.
fn key_set() -> String {
    let public = key().public_key();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (n, e) = (
        part(public.modulus().big_endian_without_leading_zero()),
        part(public.exponent().big_endian_without_leading_zero()),
    );
    let issuer = "https://login.microsoftonline.com/{tenantid}/v2.0";
    json!({ "keys": [{ "kty": "RSA", "use": "sig", "kid": "k1", "x5t": "k1", "n": n, "e": e, "issuer": issuer }] })
        .to_string()
}

fn signed(payload: &Value) -> String {
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "k1" });
    let message = format!("{}.{}", part(header.to_string()), part(payload.to_string()));
    let mut signature = vec![0; key().public_modulus_len()];
    let random = aws_lc_rs::rand::SystemRandom::new();
    key().sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The files that a sample needs.
struct ProviderFiles {
    certificate: String,
    key: String,
}

impl Files for ProviderFiles {
    fn read(&self, path: &Path) -> io::Result<Content> {
        let (text, mode) = match path.to_str() {
            Some("/chain.pem") => (self.certificate.clone(), 0o644),
            Some("/key.pem") => (self.key.clone(), 0o600),
            Some("/jwks.json") => (key_set(), 0o644),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Content { bytes: text.into_bytes(), mode })
    }

    fn credentials(&self) -> Option<PathBuf> {
        None
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Reads the configuration of a sample. The keys come from a file instead of the provider.
fn config_of(sample: &Sample) -> Config {
    let is_source = |line: &&str| line.starts_with("discovery = ") || line.starts_with("jwks_url = ");
    let sources: Vec<&str> = sample.toml.lines().filter(is_source).collect();
    assert_eq!(sources.len(), 1, "{}: one source of keys", sample.name);
    let toml = sample.toml.replace(sources[0], "jwks_file = \"jwks.json\"");
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["chat.example.com".to_owned()]).unwrap();
    let files = ProviderFiles { certificate: certificate.self_signed(&pair).unwrap().pem(), key: pair.serialize_pem() };
    config::parse(&format!("{toml}{AROUND}"), Path::new("sample.toml"), Path::new("/"), &files)
        .unwrap_or_else(|report| panic!("{}: {report}", sample.name))
}

fn snapshot_of(config: &Config) -> Snapshot {
    let context = SnapshotContext {
        addresses: &[config.listeners[0].address.clone()],
        max_sessions: NonZeroU32::new(100).unwrap(),
        counters: &Default::default(),
        key_sets: &KeySets::new(clock::now),
        acme: &Default::default(),
        now: clock::now(),
    };
    Snapshot::new(config, context).unwrap()
}

/// Admits a client with these claims. The error is the rule that it does not meet, and the claim.
fn admit(snapshot: &Snapshot, claims: &Value) -> Result<Admission, (String, Option<String>)> {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", signed(claims)).parse().unwrap());
    let facts = RequestFacts {
        kind: RequestKind::WebSocket,
        authority: "chat.example.com",
        path: "/ws",
        query: None,
        origin: None,
        headers: &headers,
        protocols: &[],
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        scheme: Scheme::Https,
        id: 1,
    };
    snapshot.policy().admit(&facts, Clocks { instant: clock::now(), unix: NOW }).map_err(|rejected| {
        let rule = rejected.rejection.detail().unwrap_or_else(|| rejected.rejection.label());
        (rule.to_owned(), rejected.claim.map(Into::into))
    })
}

/// Returns the claims with one of them replaced or, by `null`, removed.
fn with(sample: &Sample, name: &str, value: Value) -> Value {
    let mut claims = sample.token.clone();
    let members = claims.as_object_mut().unwrap();
    assert!(members.remove(name).is_some(), "{} has no claim {name}", sample.name);
    if !value.is_null() {
        members.insert(name.to_owned(), value);
    }
    claims
}

#[test]
fn every_sample_admits_its_token() {
    let subjects = [
        (
            "Keycloak",
            "36fa0f91-f94d-4a0c-afed-6b7d952e47da",
            "x-user-roles: offline_access,uma_authorization,chat-user",
        ),
        ("Auth0", "auth0|6553da60a54af58e29493993", "x-user-roles: member"),
        ("Microsoft Entra ID, v2.0 tokens", "690222be-ff1a-4d56-abd1-7e4f7d38e474", "x-user-name: ada@example.com"),
        ("Microsoft Entra ID, v1.0 tokens", "690222be-ff1a-4d56-abd1-7e4f7d38e474", ""),
        ("Amazon Cognito", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "x-user-name: ada"),
        ("Firebase", "Xk2pQ9vWc4ZtRb7yLm3nHd8sFj61", "x-user-id: Xk2pQ9vWc4ZtRb7yLm3nHd8sFj61"),
    ];
    let samples = samples();
    let names: Vec<&str> = samples.iter().map(|sample| sample.name.as_str()).collect();
    assert_eq!(names, subjects.map(|(name, _, _)| name));
    for (sample, (name, subject, header)) in samples.iter().zip(subjects) {
        let admission =
            admit(&snapshot_of(&config_of(sample)), &sample.token).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(admission.subject(), Some(subject), "{name}");
        let headers = admission.claim_headers().iter();
        let headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert!(header.is_empty() || headers.iter().any(|line| line == header), "{name}: {headers:?}");
    }
}

#[test]
fn a_sample_warns_only_of_the_audience_that_cognito_does_not_have() {
    for sample in samples() {
        let config = config_of(&sample);
        let warnings = config.warnings.to_string();
        let expected = if sample.name == "Amazon Cognito" { 1 } else { 0 };
        assert_eq!(config.warnings.diagnostics().len(), expected, "{}: {warnings}", sample.name);
        assert!(expected == 0 || warnings.contains("`audience` is not checked"), "{warnings}");
    }
}

/// The tokens of each provider that are rejected, and the rule of each, as the page has them.
#[test]
fn samples_reject_the_tokens_that_they_are_meant_to_reject() {
    let table: &[(&str, &str, Value, &str)] = &[
        ("Keycloak", "aud", json!("account"), "audience"),
        ("Keycloak", "aud", json!(null), "audience"),
        ("Keycloak", "realm_access", json!({ "roles": ["offline_access"] }), "realm_access.roles"),
        (
            "Keycloak",
            "resource_access",
            json!({ "account": { "roles": ["write"] } }),
            "/resource_access/chat-api/roles",
        ),
        ("Auth0", "iss", json!("https://TENANT.eu.auth0.com"), "issuer"),
        ("Auth0", "permissions", json!(["chat:read"]), "permissions"),
        ("Auth0", "https://example.com/roles", json!(["guest"]), "https://example.com/roles"),
        ("Microsoft Entra ID, v2.0 tokens", "scp", json!(null), "scp"),
        ("Microsoft Entra ID, v2.0 tokens", "scp", json!("chat.access.other"), "scp"),
        ("Microsoft Entra ID, v2.0 tokens", "roles", json!(null), "roles"),
        ("Microsoft Entra ID, v1.0 tokens", "iss", json!("https://sts.windows.net/another-tenant/"), "issuer"),
        ("Microsoft Entra ID, v1.0 tokens", "appid", json!("another"), "appid"),
        ("Amazon Cognito", "token_use", json!("id"), "token_use"),
        ("Amazon Cognito", "client_id", json!("another"), "client_id"),
        ("Amazon Cognito", "cognito:groups", json!(null), "cognito:groups"),
        ("Firebase", "aud", json!("ANOTHER-PROJECT"), "audience"),
        ("Firebase", "email_verified", json!(false), "email_verified"),
        ("Firebase", "firebase", json!({ "sign_in_provider": "anonymous" }), "firebase.sign_in_provider"),
        ("Firebase", "chat", json!(null), "chat"),
    ];
    let samples = samples();
    for (name, claim, value, rule) in table {
        let sample = samples.iter().find(|sample| sample.name == *name).unwrap();
        let (broken, failed) =
            admit(&snapshot_of(&config_of(sample)), &with(sample, claim, value.clone())).unwrap_err();
        let found = failed.as_deref().unwrap_or(&broken);
        assert_eq!(found, *rule, "{name} with {claim} = {value}");
    }
    // Tokens of one version of Entra are not accepted as the other.
    let [v2, v1] = ["2", "1"].map(|version| format!("Microsoft Entra ID, v{version}.0 tokens"));
    let [v2, v1] = [v2, v1].map(|name| samples.iter().find(|sample| sample.name == name).unwrap());
    for (config, token) in [(v1, v2), (v2, v1)] {
        let (rule, _) = admit(&snapshot_of(&config_of(config)), &token.token).unwrap_err();
        assert_eq!(rule, "issuer");
    }
}

/// Every claim that a sample requires is needed: without it the token is rejected.
#[test]
fn every_requirement_of_a_sample_matters() {
    for sample in samples() {
        let config = config_of(&sample);
        let snapshot = snapshot_of(&config);
        for requirement in &config.routes[0].require {
            let name = requirement.claim().as_str();
            let top = sample
                .token
                .as_object()
                .unwrap()
                .keys()
                .find(|key| *key == name || name.trim_start_matches('/').split(['.', '/']).next() == Some(key));
            let (_, failed) = admit(&snapshot, &with(&sample, top.unwrap(), json!(null))).unwrap_err();
            assert_eq!(failed.as_deref(), Some(name), "{}", sample.name);
        }
    }
}
