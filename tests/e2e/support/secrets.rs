//! The secrets that the tests made or sent. No log of the proxy may contain one of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The end of a secret that is searched for as well: a log may contain a truncated secret. Shorter secrets are not
/// recorded, since other text could contain them by chance.
const TAIL_BYTES: usize = 16;

static SECRETS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Records a token, a cookie, a key or another value that only the client and the proxy may know.
pub fn remember(secret: &str) {
    if secret.len() >= TAIL_BYTES {
        SECRETS.lock().unwrap_or_else(PoisonError::into_inner).insert(secret.to_owned());
    }
}

/// Records the lines of a private key.
pub fn remember_pem(pem: &str) {
    pem.lines().filter(|line| !line.starts_with("-----")).for_each(remember);
}

/// Records the credentials of a request line or a header line: cookies, the values of the query and `Authorization`.
pub fn remember_line(line: &str) {
    let lower = line.to_ascii_lowercase();
    let values = |text: &str, separator: char| {
        text.split(separator).filter_map(|part| part.split_once('=')).for_each(|(_, value)| remember(value.trim()));
    };
    if let Some(target) = line.strip_prefix("GET ") {
        let target = target.split(' ').next().unwrap_or_default();
        values(target.split_once('?').unwrap_or_default().1, '&');
    } else if lower.starts_with("cookie:") {
        values(&line["cookie:".len()..], ';');
    } else if lower.starts_with("authorization:") {
        remember(line.split(' ').next_back().unwrap_or_default());
    }
}

/// Returns the first recorded secret that occurs in the text, as a whole or by its end.
pub fn find(text: &str) -> Option<String> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = |secret: &&String| {
        let tail = secret.get(secret.len() - TAIL_BYTES..).unwrap_or(secret);
        text.contains(secret.as_str()) || text.contains(tail)
    };
    secrets.iter().find(found).cloned()
}

#[test]
fn a_planted_secret_is_found() {
    let line = |value: &str| format!("{{\"message\":\"refused\",\"detail\":\"{value}\"}}");
    assert_eq!(find(&line("planted-cookie-0123456789")), None);
    remember_line("Cookie: a=b; session=planted-cookie-0123456789");
    remember_line("GET /open/?a=1&token=planted-query-0123456789 HTTP/1.1");
    remember_line("authorization: Bearer planted-bearer-0123456789");
    remember_pem("-----BEGIN PRIVATE KEY-----\nplanted+key+line+0123456789\n-----END PRIVATE KEY-----\n");
    for secret in ["planted-cookie-", "planted-query-", "planted-bearer-", "planted+key+line+"] {
        let secret = format!("{secret}0123456789");
        assert_eq!(find(&line(&secret)).as_ref(), Some(&secret));
        let truncated = &secret[secret.len() - TAIL_BYTES..];
        assert_eq!(find(&line(truncated)).as_ref(), Some(&secret), "the end of a secret is found");
        assert_eq!(find(&line(&secret[..8])), None);
    }
}
