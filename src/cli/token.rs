//! `tollgate token`: prints a signed token for trying things out.

use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;

use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde_json::{Map, Value};

use super::args::{EXIT_USAGE, Token};
use crate::policy::key::secret_in;
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
        AlgorithmFamily::Hmac => EncodingKey::from_secret(secret_in(&file)),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A token that the command signs with a file must hold for a gate that reads the same file.
    #[test]
    fn a_line_end_is_no_part_of_a_secret() {
        let path = std::env::temp_dir().join(format!("tollgate-secret-{}", std::process::id()));
        let minted = ["", "\n", "\r\n"].map(|end| {
            std::fs::write(&path, format!("0123456789abcdef0123456789abcdef{end}")).unwrap();
            mint(&Token {
                key: path.clone(),
                algorithm: "HS256".to_owned(),
                subject: None,
                issuer: None,
                audience: None,
                expires: Duration::ZERO,
                kid: None,
                // The clock may go on between one token and the next.
                claims: vec![("iat".to_owned(), 1.into()), ("exp".to_owned(), 2.into())],
            })
            .unwrap()
        });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(minted[0], minted[1]);
        assert_eq!(minted[0], minted[2]);
    }
}
