//! Tests of `token`: the checks of claims other than the subject.

use super::*;

#[test]
fn attack_claims_that_are_not_an_object() {
    for payload in ["", "null", "[]", "1", "\"x\"", "{", r#"{"exp":1800000060}x"#, "{\"exp\":1e999}", "{'exp':1}"] {
        check_payload(payload, Err(TokenError::ClaimsMalformed));
    }
    let deep = format!(r#"{{"exp":1800000060,"a":{}1{}}}"#, "[".repeat(2000), "]".repeat(2000));
    check_payload(&deep, Err(TokenError::ClaimsMalformed));
}

#[test]
fn attack_exp() {
    let cases = [
        ("1800000001", Ok(())),
        ("1800000000.5", Ok(())),
        ("1.8000000005e9", Ok(())),
        ("18446744073709551615", Ok(())),
        ("1800000000", Err(TokenError::Expired)),
        ("1799999999.999", Err(TokenError::Expired)),
        ("0", Err(TokenError::Expired)),
        ("\"1800000060\"", Err(TokenError::ExpiresMalformed)),
        ("\"never\"", Err(TokenError::ExpiresMalformed)),
        ("null", Err(TokenError::ExpiresMalformed)),
        ("true", Err(TokenError::ExpiresMalformed)),
        ("[1800000060]", Err(TokenError::ExpiresMalformed)),
        ("{}", Err(TokenError::ExpiresMalformed)),
        ("-1", Err(TokenError::ExpiresMalformed)),
        ("-0.5", Err(TokenError::ExpiresMalformed)),
        ("1e30", Err(TokenError::ExpiresMalformed)),
    ];
    for (exp, expected) in cases {
        check_payload(&with_exp(exp), expected);
    }
    check_payload(r#"{"iss":"https://id.example.com/","aud":"chat"}"#, Err(TokenError::ExpiresMissing));
    check_payload(r#"{"EXP":1800000060}"#, Err(TokenError::ExpiresMissing));
}

#[test]
fn attack_nbf() {
    check_payload(&with(r#""nbf":1800000000"#), Ok(()));
    check_payload(&with(r#""nbf":0"#), Ok(()));
    check_payload(&with(r#""nbf":1800000000.5"#), Err(TokenError::NotYetValid));
    check_payload(&with(r#""nbf":1800000001"#), Err(TokenError::NotYetValid));
    check_payload(&with(r#""nbf":18446744073709551615"#), Err(TokenError::NotYetValid));
    check_payload(&with(r#""nbf":"1800000000""#), Err(TokenError::NotBeforeMalformed));
    check_payload(&with(r#""nbf":null"#), Err(TokenError::NotBeforeMalformed));
    check_payload(&with(r#""nbf":-1"#), Err(TokenError::NotBeforeMalformed));
    check_payload(&with(r#""iat":1900000000"#), Ok(()));
    check_payload(&with(r#""iat":"yesterday""#), Ok(()));
}

#[test]
fn leeway_applies_to_exp_and_nbf_and_is_bounded() {
    let token = hmac_token(r#"{"alg":"HS256"}"#, r#"{"exp":1800000000,"nbf":1799999000}"#);
    let at = |leeway: u64, now: u64| {
        let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
        let verifier = Verifier::new(VerifierConfig {
            issuer: None,
            audience: vec![],
            leeway: Duration::from_secs(leeway),
            ..parts(keys, &[Algorithm::HS256])
        });
        verifier.verify(&token, Duration::from_secs(now)).map(|claims| claims.expires().unwrap().as_secs())
    };
    assert_eq!(at(30, 1_800_000_029), Ok(1_800_000_000));
    assert_eq!(at(30, 1_800_000_030), Err(TokenError::Expired));
    assert_eq!(at(30, 1_799_998_970), Ok(1_800_000_000));
    assert_eq!(at(30, 1_799_998_969), Err(TokenError::NotYetValid));
    assert_eq!(at(u64::MAX, 1_800_000_299), Ok(1_800_000_000));
    assert_eq!(at(u64::MAX, 1_800_000_300), Err(TokenError::Expired));
}

#[test]
fn attack_wrong_issuer() {
    let cases = [
        (r#""https://id.example.com/""#, Ok(())),
        (r#""https://id.example.com""#, Err(TokenError::Issuer)),
        (r#""https://ID.example.com/""#, Err(TokenError::Issuer)),
        (r#""https://id.example.com/ ""#, Err(TokenError::Issuer)),
        (r#"["https://id.example.com/"]"#, Err(TokenError::Issuer)),
        ("null", Err(TokenError::Issuer)),
    ];
    for (issuer, expected) in cases {
        check_payload(&format!(r#"{{"exp":1800000060,"aud":"chat","iss":{issuer}}}"#), expected);
    }
    check_payload(r#"{"exp":1800000060,"aud":"chat"}"#, Err(TokenError::Issuer));
}

#[test]
fn attack_wrong_audience() {
    let cases = [
        (r#""chat""#, Ok(())),
        (r#"["chat"]"#, Ok(())),
        (r#"["mail","chat-admin"]"#, Ok(())),
        (r#""chatter""#, Err(TokenError::Audience)),
        (r#""Chat""#, Err(TokenError::Audience)),
        (r#""chat chat-admin""#, Err(TokenError::Audience)),
        (r#"["mail"]"#, Err(TokenError::Audience)),
        ("[]", Err(TokenError::Audience)),
        (r#"["chat",1]"#, Err(TokenError::Audience)),
        (r#"[["chat"]]"#, Err(TokenError::Audience)),
        (r#"{"chat":true}"#, Err(TokenError::Audience)),
        ("null", Err(TokenError::Audience)),
        (r#""""#, Err(TokenError::Audience)),
    ];
    for (audience, expected) in cases {
        check_payload(&format!(r#"{{"exp":1800000060,"iss":"https://id.example.com/","aud":{audience}}}"#), expected);
    }
    check_payload(r#"{"exp":1800000060,"iss":"https://id.example.com/"}"#, Err(TokenError::Audience));
}

#[test]
fn malformed_values_matter_only_in_claims_that_the_section_checks() {
    for value in [r#""\ud800""#, "1e400", r#"["\udfff"]"#, r#"{"\ud800":1}"#, r#"{"a":1,"a":2}"#] {
        for name in ["name", "iat", "jti", "sid", "\\ud800"] {
            check_payload(&with(&format!(r#""{name}":{value}"#)), Ok(()));
        }
    }
    for name in ["sub", "nbf"] {
        check_payload(&with(&format!(r#""{name}":"\ud800""#)), Err(TokenError::ClaimsMalformed));
    }
    // The same values in claims that the section checks, or that only a route uses.
    let judged = |issuer: Option<&str>, audience: &[&str], claims: &[&str], member: &str| {
        let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
        let verifier = Verifier::new(VerifierConfig {
            issuer: issuer.map(str::to_owned),
            audience: audience.iter().map(|name| (*name).to_owned()).collect(),
            claims: claims.iter().map(|name| name.parse().unwrap()).collect(),
            ..parts(keys, &[Algorithm::HS256])
        });
        let token = hmac_token(r#"{"alg":"HS256"}"#, &format!(r#"{{"exp":1800000060,{member}}}"#));
        verifier.verify(&token, NOW).map(drop)
    };
    let malformed = Err(TokenError::ClaimsMalformed);
    let iss = r#""iss":"\ud800""#;
    assert_eq!(judged(None, &[], &[], iss), Ok(()));
    assert_eq!(judged(Some("i"), &[], &[], iss), malformed);
    assert_eq!(judged(None, &[], &["iss"], iss), Ok(()));
    let aud = r#""aud":["\ud800","chat"]"#;
    assert_eq!(judged(None, &[], &[], aud), Ok(()));
    assert_eq!(judged(None, &["chat"], &[], aud), malformed);
    let realm = r#""realm":{"role":1e400,"name":"\ud800"}"#;
    assert_eq!(judged(None, &[], &["realm", "realm.x", "realm.x.role", "name"], realm), Ok(()));
    assert_eq!(judged(None, &[], &["realm.role", "realm.name"], realm), Ok(()));
    assert_eq!(judged(None, &[], &["o.p"], r#""o":{"p":1,"p":2}"#), Ok(()));
    assert_eq!(judged(None, &[], &["o.p"], r#""o":{"p":1},"o":{"p":1}"#), Err(TokenError::ClaimsDuplicate));
    assert_eq!(judged(None, &[], &["sub", "exp"], r#""sub":1e400"#), malformed);
}

#[test]
fn at_the_maximum_time_every_token_is_expired() {
    for leeway in [Duration::ZERO, MAX_LEEWAY] {
        for exp in ["1800000060", "18446744073709551615", "1.8446744073709550e19"] {
            let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
            let verifier = Verifier::new(VerifierConfig { leeway, ..parts(keys, &[Algorithm::HS256]) });
            let token = hmac_token(r#"{"alg":"HS256"}"#, &with_exp(exp));
            assert_eq!(verifier.verify(&token, Duration::MAX), Err(TokenError::Expired), "{exp}");
            // A cached token is rejected, too.
            assert!(verifier.verify(&token, NOW).is_ok());
            assert_eq!(verifier.verify(&token, Duration::MAX), Err(TokenError::Expired), "{exp}");
        }
    }
}

#[test]
fn claims_are_read_only_after_the_signature() {
    let stranger = EncodingKey::from_secret(b"a secret that is not ours, but long");
    for payload in ["{", r#"{"exp":"x"}"#, r#"{"exp":1}"#, "{}"] {
        let token = signed(r#"{"alg":"HS256"}"#, payload, &stranger, Algorithm::HS256);
        assert_eq!(hmac_verifier().verify(&token, NOW), Err(TokenError::Signature));
    }
}
