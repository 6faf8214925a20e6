//! `tollgate token`: prints a signed token for trying things out.

use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;

use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde_json::{Map, Value};

use super::args::{EXIT_USAGE, Token};
use crate::proxy::clock;

/// Prints the token. The exit code is 64 if the key or the algorithm cannot be used.
pub fn run(token: &Token) -> ExitCode {
    match mint(token) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tollgate token: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Signs a token.
///
/// # Errors
/// If the algorithm is unknown, or the key cannot be read or does not fit it.
pub fn mint(token: &Token) -> Result<String, Box<dyn Error>> {
    let algorithm =
        Algorithm::from_str(&token.algorithm).map_err(|_| format!("unknown algorithm {:?}", token.algorithm))?;
    let file = std::fs::read(&token.key).map_err(|error| format!("{}: {error}", token.key.display()))?;
    let key = match algorithm.family() {
        AlgorithmFamily::Hmac => EncodingKey::from_secret(file.strip_suffix(b"\n").unwrap_or(&file)),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(&file)?,
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(&file)?,
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(&file)?,
    };
    let header = Header { kid: token.kid.clone(), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, &claims(token), &key).map_err(Into::into)
}

fn claims(token: &Token) -> Map<String, Value> {
    let now = clock::both().unix.as_secs();
    let mut claims = Map::new();
    claims.insert("iat".to_owned(), now.into());
    claims.insert("exp".to_owned(), now.saturating_add(token.expires.as_secs()).into());
    for (name, value) in [("sub", &token.subject), ("iss", &token.issuer), ("aud", &token.audience)] {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value.as_str().into());
        }
    }
    // A claim that is given by hand outweighs the others, so that wrong tokens can be made, too.
    claims.extend(token.claims.iter().cloned());
    claims
}
