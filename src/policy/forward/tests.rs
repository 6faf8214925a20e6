//! Tests of `forward`: answers as claims, the reuse of answers, and the limits.

use std::time::Duration;

use http::HeaderMap;

use super::*;
use crate::policy::pattern::Params;
use crate::policy::remote::{HttpUrl, Roots};
use crate::policy::requirement::Requirement;
use crate::policy::token::MAX_SUBJECT_BYTES;

fn config(claims: &[&str]) -> ForwardConfig {
    let names = ["x-user", "x-groups", "authorization"];
    ForwardConfig {
        url: HttpUrl::parse("http://127.0.0.1:4181/auth").unwrap(),
        roots: Roots::System,
        timeout: Duration::from_secs(1),
        response_headers: names.map(HeaderName::from_static).to_vec(),
        subject_header: Some(HeaderName::from_static("x-user")),
        cache_for: Some(Duration::from_secs(5)),
        recheck_interval: None,
        claims: claims.iter().map(|name| name.parse().unwrap()).collect(),
    }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn requirement(claim: &str, value: &str) -> Requirement {
    Requirement::any_of(claim.parse().unwrap(), vec![value.parse().unwrap()])
}

fn answer(lines: &[(&'static str, &str)]) -> Result<ForwardAnswer, AnswerError> {
    ForwardAnswer::new(&headers(lines), &config(&[]))
}

/// As `answer`, with the subject `ada` added.
fn answer_of_ada(lines: &[(&'static str, &str)]) -> Result<ForwardAnswer, AnswerError> {
    answer(&[&[("x-user", "ada")], lines].concat())
}

#[test]
fn a_list_in_a_header_is_a_list_of_claims_and_the_subject_is_not() {
    let forward = ForwardAuth::new(config(&["X-Groups", "x-user", "x-other"]));
    let meets = |lines: &[(&'static str, &str)], claim: &str, value: &str| {
        let mut headers = headers(lines);
        if !headers.contains_key("x-user") {
            headers.append("x-user", HeaderValue::from_static("ada"));
        }
        let answer = ForwardAnswer::new(&headers, forward.config()).unwrap();
        requirement(claim, value).met_by(&forward.claims(&answer), &Params::default())
    };
    let table: &[(&[(&'static str, &str)], &str, &str, bool)] = &[
        (&[("x-groups", "dev, admin")], "X-Groups", "admin", true),
        (&[("x-groups", "dev"), ("x-groups", "admin")], "X-Groups", "admin", true),
        (&[("x-groups", "admin")], "X-Groups", "admin", true),
        (&[("x-groups", "administrators")], "X-Groups", "admin", false),
        (&[("x-groups", "dev, admin")], "X-Groups", "dev, admin", false),
        (&[("x-groups", "")], "X-Groups", "", false),
        (&[], "X-Groups", "admin", false),
        (&[("x-user", "eve,ada")], "x-user", "ada", false),
        (&[("x-user", "eve,ada")], "x-user", "eve,ada", true),
        // A header that is not listed is not a claim.
        (&[("x-other", "1")], "x-other", "1", false),
        (&[("x-groups", "caf\u{e9}")], "X-Groups", "caf\u{e9}", true),
    ];
    for (lines, claim, value, expected) in table {
        assert_eq!(meets(lines, claim, value), *expected, "{lines:?} {claim} {value}");
    }
    let mut latin1 = HeaderMap::new();
    latin1.append("x-user", HeaderValue::from_static("ada"));
    latin1.append("x-groups", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    let answer = ForwardAnswer::new(&latin1, forward.config()).unwrap();
    assert!(!requirement("X-Groups", "caf").met_by(&forward.claims(&answer), &Params::default()));
}

#[test]
fn a_subject_is_one_visible_text() {
    let subject = |lines: &[(&'static str, &str)]| answer(lines).map(|answer| answer.subject().cloned());
    assert_eq!(subject(&[("x-user", " ada ")]), Ok(Some("ada".into())));
    assert_eq!(subject(&[("x-user", "")]), Err(AnswerError::Subject));
    assert_eq!(subject(&[]), Err(AnswerError::Subject));
    let nameless = ForwardConfig { subject_header: None, ..config(&[]) };
    assert_eq!(ForwardAnswer::new(&HeaderMap::new(), &nameless).map(|answer| answer.subject().cloned()), Ok(None));
    assert_eq!(subject(&[("x-user", "ada"), ("x-user", "eve")]), Err(AnswerError::Subject));
    assert_eq!(subject(&[("x-user", "z\u{f6}e")]), Err(AnswerError::Subject));
    assert_eq!(subject(&[("x-user", &"a".repeat(MAX_SUBJECT_BYTES))]), Ok(Some("a".repeat(256).into())));
    assert_eq!(subject(&[("x-user", &"a".repeat(MAX_SUBJECT_BYTES + 1))]), Err(AnswerError::Subject));
}

#[test]
fn an_answer_has_only_listed_headers_within_the_limit() {
    let kept = answer(&[("x-user", "ada"), ("set-cookie", "a=b"), ("authorization", "Bearer x")]).unwrap();
    let names: Vec<&str> = kept.headers().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-user", "authorization"]);
    assert!(kept.headers().iter().all(|(_, value)| value.is_sensitive()));
    assert_eq!(answer_of_ada(&[("x-groups", &"a".repeat(ANSWER_MAX_BYTES))]), Err(AnswerError::TooLarge));
    assert!(answer_of_ada(&[("x-groups", &"a".repeat(ANSWER_MAX_BYTES - 17))]).is_ok());
}

#[test]
fn questions_are_the_same_if_all_their_headers_are() {
    let key = |lines: &[(&'static str, &str)]| Question::new(headers(lines)).key();
    assert!(key(&[("cookie", "a=1")]) == key(&[("cookie", "a=1")]));
    for other in [&[("cookie", "a=2")][..], &[("cookie", "a=1"), ("x", "")], &[("cookiea", "=1")], &[]] {
        assert!(key(&[("cookie", "a=1")]) != key(other), "{other:?}");
    }
}

#[test]
fn an_answer_is_reused_until_it_is_too_old_or_forgotten() {
    let forward = ForwardAuth::new(config(&[]));
    let (ada, eve) = (Question::new(headers(&[("cookie", "ada")])), Question::new(headers(&[("cookie", "eve")])));
    let answer = Arc::new(answer(&[("x-user", "ada")]).unwrap());
    let now = Instant::now();
    assert!(forward.known(&ada, now).is_none());
    forward.keep(&ada, &answer, now);
    assert!(forward.known(&ada, now + Duration::from_millis(4_999)).is_some());
    assert!(forward.known(&ada, now + Duration::from_secs(5)).is_none());
    assert!(forward.known(&eve, now).is_none());
    forward.forget(&ada);
    assert!(forward.known(&ada, now).is_none());
    let never = ForwardAuth::new(ForwardConfig { cache_for: None, ..config(&[]) });
    never.keep(&ada, &answer, now);
    assert!(never.known(&ada, now).is_none());
}

#[test]
fn kept_answers_are_limited() {
    let forward = ForwardAuth::new(config(&[]));
    let answer = Arc::new(answer_of_ada(&[]).unwrap());
    let now = Instant::now();
    for number in 0..10_000 {
        let question = Question::new(headers(&[("cookie", &number.to_string())]));
        forward.keep(&question, &answer, now);
        assert!(forward.known(&question, now).is_some());
    }
    assert!(Arc::strong_count(&answer) <= 4_097, "{}", Arc::strong_count(&answer));
}

#[test]
fn waiting_requests_are_limited() {
    let forward = ForwardAuth::new(config(&[]));
    let mut pending: Vec<_> = (0..PENDING_MAX.get()).map(|_| forward.pend().unwrap()).collect();
    assert!(forward.pend().is_none() && forward.pend().is_none());
    pending.pop();
    assert!(forward.pend().is_some());
}

#[test]
fn debug_contains_no_credential() {
    let question = Question::new(headers(&[("cookie", "secret")]));
    let answer = answer(&[("x-user", "ada")]).unwrap();
    let text = format!("{question:?} {answer:?} {:?} {:?}", question.key(), ForwardAuth::new(config(&[])));
    assert!(!text.contains("secret") && !text.contains("ada"), "{text}");
}
