//! The facts that a session was admitted with as plain data, for another process.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::forward::{Answered, ForwardAnswer, Question};
use super::grant::{Grant, SessionToken};
use super::path::{PATH_MAX_BYTES, PATH_MAX_SEGMENTS};
use super::pattern::Params;
use super::token_record::TokenRecord;

/// The maximum length of a name, a host or an origin of another process, in bytes.
pub const NAME_MAX_BYTES: usize = 1024;
/// The maximum size of a token, a subject, or all header fields of an answer or a question, in bytes. A request head has
/// at most half of it.
const HEAD_MAX_BYTES: usize = 128 * 1024;
/// The maximum number of header fields of an answer or a question.
const FIELDS_MAX: usize = 1024;

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
    /// Returns the facts. `None` if a header field is not valid, or a part is longer than a request can make it.
    pub fn import(self) -> Option<Grant> {
        if !self.is_bounded() {
            return None;
        }
        let Self { auth, subject, token, answered, params, host, origin, address } = self;
        let answered = answered.map(|answered| answered.import().ok_or(())).transpose().ok()?;
        let fresh = SessionToken::new(None);
        if let Some(token) = token {
            fresh.replace(token);
        }
        Some(Grant { auth, subject, token: fresh, answered, params, host, origin, address })
    }
}

impl GrantState {
    fn is_bounded(&self) -> bool {
        let is_text = |text: Option<&[u8]>, max: usize| text.is_none_or(|text| text.len() <= max);
        is_text(self.auth.as_deref().map(str::as_bytes), NAME_MAX_BYTES)
            && is_text(self.subject.as_deref().map(str::as_bytes), HEAD_MAX_BYTES)
            && is_text(Some(self.host.as_bytes()), NAME_MAX_BYTES)
            && is_text(self.origin.as_deref(), NAME_MAX_BYTES)
            && self.token.as_ref().is_none_or(|token| token.is_bounded(HEAD_MAX_BYTES))
            && self.params.is_bounded(PATH_MAX_SEGMENTS, PATH_MAX_BYTES)
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
        let has_valid_subject = subject.as_ref().is_none_or(|subject| subject.len() <= HEAD_MAX_BYTES);
        if !has_valid_subject || !is_head(&headers) || !question.as_deref().is_none_or(is_head) {
            return None;
        }
        let answer = ForwardAnswer::of_parts(headers.into_iter().map(field).collect::<Option<_>>()?, subject);
        let question = match question {
            Some(headers) => {
                let mut map = HeaderMap::new();
                for (name, value) in headers.into_iter().map(field).collect::<Option<Vec<_>>>()? {
                    map.try_append(name, value).ok()?;
                }
                Some(Arc::new(Question::new(map)))
            }
            None => None,
        };
        Some(Answered { answer: Arc::new(answer), question })
    }
}

/// Whether these fields can be those of a request or a response.
fn is_head(fields: &[(String, Vec<u8>)]) -> bool {
    let len = |(name, value): &(String, Vec<u8>)| name.len().saturating_add(value.len());
    fields.len() <= FIELDS_MAX && fields.iter().map(len).fold(0, usize::saturating_add) <= HEAD_MAX_BYTES
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

#[cfg(test)]
mod tests;
