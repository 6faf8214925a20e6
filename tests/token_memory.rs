//! Tests that the cache of verified tokens stays within its limit in allocated bytes, for tokens of any shape.
//!
//! The allocator counts for the whole process, so this binary contains only one test.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use std::alloc::System;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tollgate::policy::claim_path::ClaimPath;
use tollgate::policy::expiry::OnExpiry;
use tollgate::policy::key::KeySet;
use tollgate::policy::token::{Verifier, VerifierConfig};
use tollgate::policy::token_cache::MEMORY_MAX_BYTES;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: Duration = Duration::from_secs(1_800_000_000);
/// The maximum number of tokens of one shape: enough to fill the cache if much of each token is kept. More tokens of
/// which little is kept would show nothing new.
const TOKENS_MAX: usize = 2_500;
/// The size of the claims in a token of 8 KiB, after base64url, without the claims that every token has.
const CLAIMS_MAX_BYTES: usize = 8192 / 4 * 3 - 250;

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Repeats a text, separated by commas, up to the size limit.
fn filled(text: &str) -> String {
    let mut all = text.to_owned();
    while all.len() + text.len() < CLAIMS_MAX_BYTES {
        all = all + "," + text;
    }
    all
}

fn token(number: usize, members: &str) -> String {
    let payload = format!(r#"{{"n":{number},"exp":1900000000,{members}}}"#);
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(payload));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

/// Verifies tokens of one shape until the cache is full, which shows when another token frees memory, or until
/// `tokens_max`. Returns the number of tokens and the maximum number of bytes allocated.
fn fill(members: &str, asked: &[String], tokens_max: usize) -> (usize, usize) {
    let verifier = Verifier::new(VerifierConfig {
        keys: KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap().into(),
        algorithms: vec![Algorithm::HS256],
        issuer: None,
        audience: Vec::new(),
        subject_claim: ClaimPath::registered("sub"),
        leeway: Duration::ZERO,
        on_expiry: OnExpiry::default(),
        sources: Vec::new(),
        forward_token: false,
        max_bytes: 8192,
        claims: asked.iter().map(|name| name.parse().unwrap()).collect(),
    });
    let start = allocated();
    let mut most = 0;
    for number in 0..tokens_max {
        let token = token(number, members);
        assert!(token.len() <= 8192);
        verifier.verify(&token, NOW).unwrap();
        drop(token);
        let taken = allocated() - start;
        if taken + MEMORY_MAX_BYTES / 4 < most {
            return (number, most);
        }
        most = most.max(taken);
        assert!(most <= MEMORY_MAX_BYTES, "{most} bytes for {number} tokens with {members:.60}...");
    }
    (tokens_max, most)
}

#[test]
fn cached_tokens_take_at_most_16_mib() {
    let names: Vec<String> = (0..700).map(|number| format!("c{number}")).collect();
    let many = |value: &str| {
        let all: Vec<String> = names.iter().map(|name| format!(r#""{name}":{value}"#)).collect();
        filled_to(all)
    };
    let paths: Vec<String> = (0..700).map(|number| format!("c.c{number}")).collect();
    let elements: Vec<String> = (0..700).map(|number| format!("/c/{number}")).collect();
    let depth = 120;
    let nested =
        |open: &str, close: &str| format!(r#""c":[{}]"#, filled(&(open.repeat(depth) + "0" + &close.repeat(depth))));
    let c = vec!["c".to_owned()];
    let shapes = [
        ("an array of digits", format!(r#""c":[{}]"#, filled("0")), c.clone()),
        ("an array of strings of one character", format!(r#""c":[{}]"#, filled(r#""a""#)), c.clone()),
        ("an array of strings of 17 characters", format!(r#""c":[{}]"#, filled(r#""aaaaaaaaaaaaaaaaa""#)), c.clone()),
        ("an array of arrays", format!(r#""c":[{}]"#, filled("[]")), c.clone()),
        ("an array of objects", format!(r#""c":[{}]"#, filled(r#"{"":0}"#)), c.clone()),
        ("nested objects", nested(r#"{"":"#, "}"), c.clone()),
        ("nested arrays", nested("[", "]"), c.clone()),
        ("one long string", format!(r#""c":"{}""#, "a".repeat(CLAIMS_MAX_BYTES)), c.clone()),
        ("one long number", format!(r#""c":{}"#, "1".repeat(300)), c.clone()),
        ("many names with digits", many("0"), names.clone()),
        ("many names with strings", many(r#""a""#), names.clone()),
        ("many names below one", format!(r#""c":{{{}}}"#, many("0")), paths),
        ("elements of an array", format!(r#""c":[{}]"#, filled(r#""a""#)), elements),
        ("an audience that is not checked", format!(r#""aud":[{}]"#, filled("0")), Vec::new()),
    ];
    for (name, members, asked) in shapes {
        let (tokens, bytes) = fill(&members, &asked, TOKENS_MAX);
        println!("{name}: {tokens} tokens, {bytes} bytes");
        // The cache must not evict tokens long before it reaches its limit.
        assert!(bytes > MEMORY_MAX_BYTES / 2 || tokens == TOKENS_MAX, "{name}");
    }

    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let plain = format!(
        r#""iss":"https://id.example.com/realms/chat","sub":"{id}","aud":["chat","notify"],"iat":1800000000,"jti":"{id}","sid":"{id}","scope":"openid chat:read chat:write","name":"Ada Lovelace","email":"ada@example.com","realm_access":{{"roles":["user","editor","offline_access"]}}"#
    );
    let asked = ["scope", "name", "realm_access.roles"].map(str::to_owned);
    let (tokens, bytes) = fill(&plain, &asked, 100_000);
    println!("plain: {tokens} tokens, {bytes} bytes");
    assert!((12_000..100_000).contains(&tokens), "{tokens}");
}

/// Joins as many members as fit.
fn filled_to(members: Vec<String>) -> String {
    let mut all = String::new();
    for member in members {
        if all.len() + member.len() + 8 > CLAIMS_MAX_BYTES {
            break;
        }
        all = if all.is_empty() { member } else { all + "," + &member };
    }
    all
}
