//! Tests of the subject of a token: `sub`, or the claim that the section names instead.

use super::*;

#[test]
fn the_subject_is_bounded() {
    check_payload(&with(&format!(r#""sub":"{}""#, "x".repeat(256))), Ok(()));
    check_payload(&with(&format!(r#""sub":"{}""#, "x".repeat(257))), Err(TokenError::SubjectTooLong));
    check_payload(&with(r#""sub":7"#), Ok(()));
}

#[test]
fn the_text_of_a_scalar_subject_is_bounded() {
    check_payload(&with(&format!(r#""sub":{}"#, "1".repeat(256))), Ok(()));
    check_payload(&with(&format!(r#""sub":1.{}"#, "1".repeat(255))), Err(TokenError::SubjectTooLong));
    check_payload(&with(r#""sub":null"#), Ok(()));
    check_payload(&with(r#""sub":[1]"#), Ok(()));
}

fn subject_by(claim: &str, payload: &str) -> Result<Option<String>, TokenError> {
    let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
    let config = VerifierConfig { subject_claim: claim.parse().unwrap(), ..parts(keys, &[Algorithm::HS256]) };
    let claims = Verifier::new(config).verify(&hmac_token(r#"{"alg":"HS256"}"#, payload), NOW)?;
    Ok(claims.subject().map(str::to_owned))
}

#[test]
fn another_claim_can_be_the_subject() {
    let payload = with(
        r#""sub":"pairwise","oid":"o1","user":{"id":7,"names":["ada"]},"https://example.com/user":"u1","a.b":"x","empty":"""#,
    );
    let cases = [
        ("sub", Ok("pairwise")),
        ("oid", Ok("o1")),
        ("user.id", Ok("7")),
        ("/user/id", Ok("7")),
        ("/user/names/0", Ok("ada")),
        ("https://example.com/user", Ok("u1")),
        ("a.b", Ok("x")),
        // These are not subjects, and a claim that the operator names is required.
        ("user", Err(TokenError::SubjectMissing)),
        ("user.names", Err(TokenError::SubjectMissing)),
        ("empty", Err(TokenError::SubjectMissing)),
        ("missing", Err(TokenError::SubjectMissing)),
    ];
    for (claim, expected) in cases {
        assert_eq!(subject_by(claim, &payload), expected.map(|subject| Some(subject.to_owned())), "{claim}");
    }
    let nameless = r#"{"exp":1800000060,"iss":"https://id.example.com/","aud":"chat"}"#;
    assert_eq!(subject_by("sub", nameless), Ok(None), "`sub` is optional");
}

#[test]
fn the_rules_of_the_subject_apply_to_the_claim_that_is_named() {
    let long = with(&format!(r#""sub":"{0}","oid":"{0}""#, "x".repeat(257)));
    assert_eq!(subject_by("oid", &long), Err(TokenError::SubjectTooLong));
    assert_eq!(subject_by("user.id", &long), Err(TokenError::SubjectMissing));
    let malformed = with(r#""sub":"\ud800","oid":"\ud800""#);
    assert_eq!(subject_by("oid", &malformed), Err(TokenError::ClaimsMalformed));
    assert_eq!(subject_by("user.id", &malformed), Err(TokenError::SubjectMissing));
    let ambiguous = with(r#""user.id":"a","user":{"id":"b"}"#);
    assert_eq!(subject_by("user.id", &ambiguous), Err(TokenError::ClaimsMalformed));
    assert_eq!(subject_by("/user/id", &ambiguous), Ok(Some("b".to_owned())));
    assert_eq!(subject_by("/user.id", &ambiguous), Ok(Some("a".to_owned())));
}

#[test]
fn a_later_verifier_reads_the_subject_by_its_own_rule() {
    let keys = || KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
    let by = |claim: &str| {
        Verifier::new(VerifierConfig { subject_claim: claim.parse().unwrap(), ..parts(keys(), &[Algorithm::HS256]) })
    };
    let token = hmac_token(r#"{"alg":"HS256"}"#, &with(r#""sub":"s","oid":"o""#));
    let claims = by("sub").verify(&token, NOW).unwrap();
    let record = TokenRecord::new(&token, &claims).unwrap();
    assert_eq!(claims.subject(), Some("s"));
    assert_eq!(by("oid").recheck(&record, NOW).unwrap().subject(), Some("o"));
}
