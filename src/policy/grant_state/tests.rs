//! Tests of `grant_state`: what another process reads, and what it rejects.

use super::super::claims::{Claims, Signer};
use super::*;

fn params(values: &[(&str, &str)]) -> Params {
    Params::new(values.iter().map(|(name, value)| (Arc::from(*name), (*value).to_owned())).collect())
}

/// Returns the facts of a client that a forward authentication service admitted.
fn grant() -> Grant {
    let mut question = HeaderMap::new();
    question.append("cookie", HeaderValue::from_static("a=1"));
    question.append("cookie", HeaderValue::from_static("b=2"));
    let headers = vec![(HeaderName::from_static("x-user"), HeaderValue::from_static("ada"))];
    let answer = ForwardAnswer::of_parts(headers, Some("ada".into()));
    Grant {
        auth: Some("users".into()),
        subject: Some("ada".into()),
        token: SessionToken::new(None),
        answered: Some(Answered { answer: Arc::new(answer), question: Some(Arc::new(Question::new(question))) }),
        params: params(&[("room", "blue")]),
        host: "a.example".into(),
        origin: Some(b"https://a.example"[..].into()),
        address: [192, 0, 2, 1].into(),
    }
}

/// Returns the facts as another process reads them.
fn moved(state: &GrantState) -> Option<Grant> {
    postcard::from_bytes::<GrantState>(&postcard::to_allocvec(state).unwrap()).unwrap().import()
}

#[test]
fn the_facts_are_the_same_in_another_process() {
    let before = grant();
    let after = moved(&before.export()).unwrap();
    assert_eq!((&after.auth, &after.subject), (&before.auth, &before.subject));
    assert_eq!((&after.params, &after.host, &after.origin), (&before.params, &before.host, &before.origin));
    assert_eq!(after.address, before.address);
    let (before, after) = (before.answered.unwrap(), after.answered.unwrap());
    assert!(before.answer == after.answer);
    let (before, after) = (before.question.unwrap(), after.question.unwrap());
    assert!(before.headers() == after.headers() && before.key() == after.key());
}

#[test]
fn the_token_is_the_same_in_another_process() {
    use base64::Engine as _;
    let payload = r#"{"sub":"ada","jti":"t1"}"#;
    let token = format!("e30.{}.", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload));
    let record = TokenRecord::new(&token, &Claims::of_test(payload, &["jti"])).unwrap();
    assert!(record.signer == Signer::of_test());
    let before = Grant { token: SessionToken::new(Some(record)), answered: None, ..grant() };
    let after = moved(&before.export()).unwrap();
    assert!(after.token.get() == before.token.get() && after.token.get().is_some());
}

#[test]
fn facts_that_are_too_long_or_not_valid_are_rejected() {
    type Change = fn(&mut GrantState);
    let text = |len: usize| "a".repeat(len);
    let table: &[(&str, Change)] = &[
        ("auth", |state| state.auth = Some("a".repeat(NAME_MAX_BYTES + 1).into())),
        ("subject", |state| state.subject = Some("a".repeat(HEAD_MAX_BYTES + 1).into())),
        ("host", |state| state.host = "a".repeat(NAME_MAX_BYTES + 1).into()),
        ("origin", |state| state.origin = Some(vec![b'a'; NAME_MAX_BYTES + 1].into())),
        ("a value", |state| state.params = params(&[("room", &"a".repeat(PATH_MAX_BYTES + 1))])),
        ("a name", |state| state.params = params(&[(&"a".repeat(PATH_MAX_BYTES + 1), "")])),
        ("many values", |state| state.params = params(&[("room", "blue"); PATH_MAX_SEGMENTS + 1])),
        ("a header name", |state| answered(state).headers[0].0 = "x user".to_owned()),
        ("a header value", |state| answered(state).headers[0].1 = b"a\r\nb: c".to_vec()),
        ("long headers", |state| answered(state).headers[0].1 = vec![b'a'; HEAD_MAX_BYTES]),
        ("a long subject", |state| answered(state).subject = Some("a".repeat(HEAD_MAX_BYTES + 1).into())),
        ("many fields", |state| {
            answered(state).question = Some(vec![("a".to_owned(), Vec::new()); FIELDS_MAX + 1]);
        }),
    ];
    for (part, change) in table {
        let mut state = grant().export();
        change(&mut state);
        assert!(moved(&state).is_none(), "{part}");
    }
    let longest = Grant { host: text(NAME_MAX_BYTES).into(), ..grant() };
    assert!(moved(&longest.export()).is_some());
}

fn answered(state: &mut GrantState) -> &mut AnsweredState {
    state.answered.as_mut().unwrap()
}

#[test]
fn debug_shows_nothing_about_the_client() {
    assert_eq!(format!("{:?}", grant().export()), r#"GrantState { auth: Some("users"), .. }"#);
}
