//! The facts that a session was admitted with as plain data, for another process.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::forward::{Answered, ForwardAnswer, Question};
use super::grant::{Grant, SessionToken};
use super::pattern::Params;
use super::token_record::TokenRecord;

/// A [`Grant`] as plain data.
#[derive(Serialize, Deserialize)]
pub struct GrantState {
    auth: Option<Arc<str>>,
    subject: Option<Arc<str>>,
    token: Option<Arc<TokenRecord>>,
    answered: Option<AnsweredState>,
    params: Params,
    host: Box<str>,
    origin: Option<Box<[u8]>>,
    address: IpAddr,
}

/// The header fields of an answer of a forward authentication service, and those of the question.
#[derive(Serialize, Deserialize)]
struct AnsweredState {
    headers: Vec<(String, Vec<u8>)>,
    subject: Option<Arc<str>>,
    question: Option<Vec<(String, Vec<u8>)>>,
}

impl Grant {
    /// Returns the facts as plain data.
    pub fn export(&self) -> GrantState {
        GrantState {
            auth: self.auth.clone(),
            subject: self.subject.clone(),
            token: self.token.get(),
            answered: self.answered.as_ref().map(AnsweredState::of),
            params: self.params.clone(),
            host: self.host.clone(),
            origin: self.origin.clone(),
            address: self.address,
        }
    }
}

impl GrantState {
    /// Returns the facts. `None` if a header field is not valid.
    pub fn import(self) -> Option<Grant> {
        let Self { auth, subject, token, answered, params, host, origin, address } = self;
        let answered = answered.map(|answered| answered.import().ok_or(())).transpose().ok()?;
        let fresh = SessionToken::new(None);
        if let Some(token) = token {
            fresh.replace(token);
        }
        Some(Grant { auth, subject, token: fresh, answered, params, host, origin, address })
    }
}

impl AnsweredState {
    fn of(answered: &Answered) -> Self {
        let field = |name: &HeaderName, value: &HeaderValue| (name.as_str().to_owned(), value.as_bytes().to_vec());
        let question = answered
            .question
            .as_ref()
            .map(|question| question.headers().iter().map(|(name, value)| field(name, value)).collect::<Vec<_>>());
        Self {
            headers: answered.answer.headers().iter().map(|(name, value)| field(name, value)).collect(),
            subject: answered.answer.subject().cloned(),
            question,
        }
    }

    fn import(self) -> Option<Answered> {
        let Self { headers, subject, question } = self;
        let answer = ForwardAnswer::of_parts(headers.into_iter().map(field).collect::<Option<_>>()?, subject);
        let question = match question {
            Some(headers) => {
                let mut map = HeaderMap::new();
                for (name, value) in headers.into_iter().map(field).collect::<Option<Vec<_>>>()? {
                    map.append(name, value);
                }
                Some(Arc::new(Question::new(map)))
            }
            None => None,
        };
        Some(Answered { answer: Arc::new(answer), question })
    }
}

fn field((name, value): (String, Vec<u8>)) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_bytes(&value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::try_from(name).ok()?, value))
}

impl std::fmt::Debug for GrantState {
    /// Omits all that is about the client.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrantState").field("auth", &self.auth).finish_non_exhaustive()
    }
}
