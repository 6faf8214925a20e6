//! The properties of the names of claims: what a name finds in a token, compared with `serde_json`.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::Value;
use tollgate::policy::claim_path::ClaimPath;
use tollgate::policy::claims::Claims;
use tollgate::policy::key::KeySet;
use tollgate::policy::pattern::Params;
use tollgate::policy::requirement::Requirement;
use tollgate::policy::template::Template;
use tollgate::policy::token::{Verifier, VerifierConfig};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Checks a name, which is the first line, against the claims in the other lines: a claim counts as present only if
/// `serde_json` finds a value at the same place.
pub fn claims(data: &[u8]) {
    let Some((name, path, payload)) = parts(data) else { return };
    let Some(claims) = verified(&path, &payload) else { return };
    let Ok(token) = serde_json::from_str::<Value>(&payload) else { return };
    let candidates: Vec<&Value> = if name.starts_with('/') {
        token.pointer(name).into_iter().collect()
    } else {
        let nested = name.split('.').try_fold(&token, |value, step| value.as_object()?.get(step));
        token.get(name).into_iter().chain(nested).collect()
    };
    let met = |requirement: Requirement| requirement.met_by(&claims, &Params::default());
    let is_present = met(Requirement::present(path.clone()));
    assert!(!is_present || candidates.iter().any(|value| has_content(value)), "{name} in {payload}");
    let equal = candidates.windows(2).all(|pair| pair[0] == pair[1]);
    assert!(!is_present || equal, "{name} is ambiguous in {payload}");
    if let Some(Value::String(text)) = candidates.first()
        && is_present
        && !["scope", "scp"].contains(&name.trim_start_matches('/'))
        && let Ok(value) = text.parse::<Template>()
        && value.names().next().is_none()
    {
        assert!(met(Requirement::any_of(path.clone(), vec![value])), "{name} in {payload}");
    }
    assert!(!met(Requirement::any_of(path, Vec::new())));
}

/// Whether the name finds a claim, for the test that the corpus has seeds that do.
pub fn is_present(data: &[u8]) -> bool {
    parts(data).is_some_and(|(_, path, payload)| {
        let claims = verified(&path, &payload);
        claims.is_some_and(|claims| Requirement::present(path).met_by(&claims, &Params::default()))
    })
}

/// Returns the name as text and parsed, and the claims with `exp` added.
fn parts(data: &[u8]) -> Option<(&str, ClaimPath, String)> {
    let (name, claims) = std::str::from_utf8(data).ok()?.split_once('\n')?;
    let path: ClaimPath = name.parse().ok()?;
    assert_eq!(path.as_str(), name);
    Some((name, path, format!(r#"{{"exp":1300819380,{}"#, claims.trim_start().strip_prefix('{')?)))
}

/// Returns the claims of a token with this payload, if its payload is accepted.
fn verified(path: &ClaimPath, payload: &str) -> Option<Claims> {
    let algorithms = vec![Algorithm::HS256];
    let verifier = Verifier::new(VerifierConfig {
        keys: KeySet::from_secret(SECRET, &algorithms).expect("the secret is good").into(),
        algorithms,
        issuer: None,
        audience: Vec::new(),
        subject_claim: ClaimPath::registered("sub"),
        on_expiry: tollgate::policy::expiry::OnExpiry::default(),
        leeway: Duration::ZERO,
        sources: Vec::new(),
        forward_token: false,
        max_bytes: 8192,
        claims: vec![path.clone()],
    });
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let message = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(payload));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
    verifier.verify(&token, Duration::from_secs(1_300_819_379)).ok()
}

fn has_content(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}
