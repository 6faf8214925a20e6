//! The exchange with the service of a forward authentication section: its configuration, the question and the answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::policy::claim_path::ClaimPath;
use crate::policy::remote::{HttpUrl, Roots};
use crate::policy::token::MAX_SUBJECT_BYTES;

/// The maximum size of the listed headers of one answer, names and values together.
pub const ANSWER_MAX_BYTES: usize = 8 * 1024;

/// The configuration of one `[auth.<name>]` section with `kind = "forward"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardConfig {
    /// The URL of the service.
    pub url: HttpUrl,
    /// The roots of its certificate.
    pub roots: Roots,
    /// Timeout for its whole response.
    pub timeout: Duration,
    /// The headers of its response that the upstream receives, and that claims are read from.
    pub response_headers: Vec<HeaderName>,
    /// The header of its response with the subject.
    pub subject_header: Option<HeaderName>,
    /// How long an answer that admits is reused for requests with the same headers; `None`: not at all.
    pub cache_for: Option<Duration>,
    /// The interval at which the service is asked about open sessions again; `None`: never.
    pub recheck_interval: Option<Duration>,
    /// The names of claims that routes use. A claim is the response header of this name.
    pub claims: Vec<ClaimPath>,
}

/// The headers by which the service decides on a request.
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    headers: HeaderMap,
    key: QuestionKey,
}

/// The SHA-256 of the headers of a question.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuestionKey([u8; digest::SHA256_OUTPUT_LEN]);

impl Question {
    /// Creates a question from the headers that the service receives.
    pub fn new(headers: HeaderMap) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for (name, value) in &headers {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                context.update(&part.len().to_be_bytes());
                context.update(part);
            }
        }
        let mut key = [0; digest::SHA256_OUTPUT_LEN];
        key.copy_from_slice(context.finish().as_ref());
        Self { headers, key: QuestionKey(key) }
    }

    /// Returns the headers.
    pub(in crate::policy) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns its key: questions with the same headers have the same key.
    pub fn key(&self) -> QuestionKey {
        self.key
    }

    /// Returns the request to the service: `GET` without a body.
    pub fn request(&self, config: &ForwardConfig) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = config.url.uri().clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Shows the number of headers only: they contain credentials.
impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("headers", &self.headers.len()).finish_non_exhaustive()
    }
}

/// The key is a hash of credentials.
impl fmt::Debug for QuestionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuestionKey")
    }
}

/// An answer of the service that admits a request: its listed headers.
#[derive(PartialEq, Eq)]
pub struct ForwardAnswer {
    headers: Box<[(HeaderName, HeaderValue)]>,
    subject: Option<Arc<str>>,
}

/// An answer, and the question about an open session that can be asked again.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The answer.
    pub answer: Arc<ForwardAnswer>,
    /// The question; `None` without a `recheck_interval`.
    pub question: Option<Arc<Question>>,
}

/// Why an answer that admits a request cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerError {
    /// The listed headers exceed [`ANSWER_MAX_BYTES`].
    TooLarge,
    /// The header with the subject is missing or empty, occurs more than once, is not visible text, or is longer than
    /// [`MAX_SUBJECT_BYTES`].
    Subject,
}

impl AnswerError {
    /// Returns the reason for the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "the listed headers of the answer are too large",
            Self::Subject => {
                "the header with the subject is missing, occurs twice, is too long, or is not visible text"
            }
        }
    }
}

impl ForwardAnswer {
    /// Takes the listed headers of a response.
    ///
    /// # Errors
    /// If the headers are too large, or the subject cannot be used.
    pub fn new(response: &HeaderMap, config: &ForwardConfig) -> Result<Self, AnswerError> {
        let subject = match &config.subject_header {
            Some(name) => subject(response, name)?,
            None => None,
        };
        let mut headers = Vec::new();
        let mut bytes = 0_usize;
        for name in &config.response_headers {
            for value in response.get_all(name) {
                bytes = bytes.saturating_add(name.as_str().len()).saturating_add(value.len());
                let mut value = value.clone();
                value.set_sensitive(true);
                headers.push((name.clone(), value));
            }
        }
        if bytes > ANSWER_MAX_BYTES {
            return Err(AnswerError::TooLarge);
        }
        Ok(Self { headers: headers.into(), subject })
    }

    /// Returns an answer that another process received.
    pub(in crate::policy) fn of_parts(headers: Vec<(HeaderName, HeaderValue)>, subject: Option<Arc<str>>) -> Self {
        Self { headers: headers.into(), subject }
    }

    /// Returns the subject.
    pub fn subject(&self) -> Option<&Arc<str>> {
        self.subject.as_ref()
    }

    /// Returns the headers for the upstream.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }
}

/// Shows the names only: the values are personal data.
impl fmt::Debug for ForwardAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForwardAnswer ")?;
        f.debug_set().entries(self.headers.iter().map(|(name, _)| name)).finish()
    }
}

fn subject(response: &HeaderMap, name: &HeaderName) -> Result<Option<Arc<str>>, AnswerError> {
    let mut values = response.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(AnswerError::Subject) };
    let text = value.to_str().map_err(|_| AnswerError::Subject)?.trim();
    if (1..=MAX_SUBJECT_BYTES).contains(&text.len()) { Ok(Some(text.into())) } else { Err(AnswerError::Subject) }
}
