//! Certificates and tokens, from one certificate authority and one issuer for the whole test binary.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::secrets;

pub const ISSUER: &str = "https://id.example.com/";
pub const AUDIENCE: &str = "e2e";
/// The prefix of every token: the start of a JSON object in base64url.
pub const TOKEN_START: &str = "eyJ";

/// A certificate and its key.
#[derive(Clone)]
pub struct Leaf {
    pub chain_pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
}

impl Leaf {
    /// Returns a certificate signed by the authority that clients trust.
    pub fn new(names: &[&str]) -> Self {
        Self::with(names, |_| {})
    }

    /// Returns a certificate that expired in 2001.
    pub fn expired(names: &[&str]) -> Self {
        Self::with(names, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    /// Returns a certificate that expires in `seconds`.
    pub fn expiring(names: &[&str], seconds: u64) -> Self {
        let end = Duration::from_secs(jsonwebtoken::get_current_timestamp() + seconds);
        Self::with(names, |params| params.not_after = date_time_ymd(1970, 1, 1) + end)
    }

    fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let leaf = params.signed_by(&key, authority()).unwrap();
        let key_pem = key.serialize_pem();
        secrets::remember_pem(&key_pem);
        Self { chain_pem: leaf.pem(), key_pem, der: leaf.der().clone() }
    }
}

fn authority() -> &'static CertifiedIssuer<'static, KeyPair> {
    static AUTHORITY: OnceLock<CertifiedIssuer<'static, KeyPair>> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    })
}

/// Returns the certificate of the authority.
pub fn authority_pem() -> String {
    authority().pem()
}

/// Returns the roots of peers that trust only this authority.
pub fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority().der().clone()).unwrap();
    roots
}

/// Returns a client configuration that trusts only this authority and offers these versions.
pub fn client_config(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth()
}

/// Returns the configuration of most clients, which offers all versions.
pub fn plain_client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| Arc::new(client_config(rustls::ALL_VERSIONS))))
}

fn issuer() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate().unwrap())
}

/// Returns the public key that verifies tokens.
pub fn public_key_pem() -> String {
    issuer().public_key_pem()
}

/// Returns a valid token for room "blue" and subject "ada", with these claims replaced or, if null, removed.
pub fn token(claims: &Value) -> String {
    signed(&payload(claims))
}

/// Returns the payload of such a token.
fn payload(claims: &Value) -> String {
    let exp = jsonwebtoken::get_current_timestamp() + 600;
    let mut all = json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": exp, "sub": "ada", "room": "blue" });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    all.to_string()
}

/// Returns a valid token whose payload also contains these members, as literal JSON.
pub fn token_with(members: &str) -> String {
    let exp = jsonwebtoken::get_current_timestamp() + 600;
    signed(&format!(r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","exp":{exp},"sub":"ada","room":"blue",{members}}}"#))
}

fn signed(payload: &str) -> String {
    signed_as(r#"{"alg":"ES256","typ":"JWT"}"#, payload)
}

/// Returns a token with this header and payload, signed by the key of the issuer.
pub fn signed_as(header: &str, payload: &str) -> String {
    sign(issuer(), header, payload)
}

fn sign(key: &KeyPair, header: &str, payload: &str) -> String {
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(header), part(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::ES256).unwrap();
    let token = format!("{message}.{signature}");
    secrets::remember(&token);
    token
}

/// A key that an identity provider publishes under a name.
pub struct NamedKey {
    kid: &'static str,
    key: KeyPair,
}

impl NamedKey {
    pub fn new(kid: &'static str) -> Self {
        Self { kid, key: KeyPair::generate().unwrap() }
    }

    /// Returns a valid token that names the key, with these claims replaced.
    pub fn token(&self, claims: &Value) -> String {
        sign(&self.key, &format!(r#"{{"alg":"ES256","kid":"{}"}}"#, self.kid), &payload(claims))
    }

    /// Returns the public key as a JWK.
    pub fn jwk(&self) -> Value {
        let raw = self.key.public_key_raw();
        let [x, y] = [&raw[1..33], &raw[33..65]].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": x, "y": y })
    }
}

/// Returns a valid token.
pub fn good_token() -> String {
    token(&json!({}))
}
