//! `tollgate token`: prints a signed token for tests.

mod signer;

use std::error::Error;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use self::signer::Signer;
use super::args::{EXIT_USAGE, Token};
use crate::runtime::clock;

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
/// If the algorithm is unknown, the key cannot be read or does not fit the algorithm, or the clock cannot be right.
pub fn mint(token: &Token) -> Result<String, Box<dyn Error>> {
    let file = std::fs::read(&token.key).map_err(|error| format!("{}: {error}", token.key.display()))?;
    let signer = Signer::new(&token.algorithm, &file).map_err(|error| {
        // The file is not the cause of an unknown algorithm.
        if error.is_about_file() { format!("{} {error}", token.key.display()) } else { error.to_string() }
    })?;
    let mut header = json!({ "typ": "JWT", "alg": token.algorithm });
    if let (Some(header), Some(kid)) = (header.as_object_mut(), &token.kid) {
        header.insert("kid".to_owned(), kid.as_str().into());
    }
    let encode = |json: String| URL_SAFE_NO_PAD.encode(json);
    let message = format!("{}.{}", encode(header.to_string()), encode(Value::from(claims(token)?).to_string()));
    let signature = signer.sign(message.as_bytes())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn claims(token: &Token) -> Result<Map<String, Value>, Box<dyn Error>> {
    let now = clock::unix().ok_or("the clock of this machine is earlier than this version of tollgate")?.as_secs();
    let mut claims = Map::new();
    claims.insert("iat".to_owned(), now.into());
    claims.insert("exp".to_owned(), now.saturating_add(token.expires.as_secs()).into());
    for (name, value) in [("sub", &token.subject), ("iss", &token.issuer), ("aud", &token.audience)] {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value.as_str().into());
        }
    }
    // An explicit claim overrides the others, so that invalid tokens can be created as well.
    claims.extend(token.claims.iter().cloned());
    Ok(claims)
}

#[cfg(test)]
mod tests;
