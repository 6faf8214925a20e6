//! Asks the service of a forward authentication section.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Bytes;

use super::clients::HttpClients;
use super::short_body;
use crate::policy::forward::{AuthOutcome, ForwardAnswer, ForwardAuth, Question};

/// The maximum number of cookies of an answer that the client gets.
const COOKIES_MAX: usize = 16;

/// The decision of the service.
#[derive(Debug)]
pub enum Decision {
    /// The client is admitted. The service may renew its cookies.
    Admitted(Arc<ForwardAnswer>, Vec<HeaderValue>),
    /// The client is rejected with this response: 401, 403 or 3xx. It has no body if that is too long or takes too
    /// long.
    Rejected(Response<Bytes>),
    /// There is no decision, for this reason.
    Unavailable(String),
}

/// Asks the service, and counts the outcome. The status decides, as soon as the head of the response has arrived. An
/// earlier answer is not reused, and this one is kept.
pub async fn ask(clients: &HttpClients, forward: &ForwardAuth, question: &Question) -> Decision {
    let decision = decide(clients, forward, question).await;
    forward.count(match decision {
        Decision::Admitted(..) => AuthOutcome::Admitted,
        Decision::Rejected(_) => AuthOutcome::Rejected,
        Decision::Unavailable(_) => AuthOutcome::Unavailable,
    });
    decision
}

async fn decide(clients: &HttpClients, forward: &ForwardAuth, question: &Question) -> Decision {
    let config = forward.config();
    let client = clients.trusting(&config.roots);
    let response = match client.head(question.request(config), config.timeout).await {
        Ok(response) => response,
        Err(error) => return Decision::Unavailable(error.to_string()),
    };
    let status = response.status();
    let (head, body) = response.into_parts();
    if status.is_success() {
        client.drain(body);
        return match ForwardAnswer::new(&head.headers, config) {
            Ok(answer) => {
                let cookies = head.headers.get_all(SET_COOKIE).iter().take(COOKIES_MAX).cloned().collect();
                Decision::Admitted(Arc::new(answer), cookies)
            }
            Err(error) => Decision::Unavailable(error.label().to_owned()),
        };
    }
    forward.forget(question);
    if is_rejection(status) {
        let limit = config.timeout.min(short_body::BODY_TIMEOUT);
        Decision::Rejected(short_body::attach(head, short_body::read(body), limit).await)
    } else {
        client.drain(body);
        Decision::Unavailable(format!("the service answered {}", status.as_u16()))
    }
}

/// Whether a response with this status rejects the client: 401, 403 or 3xx.
pub fn is_rejection(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || status.is_redirection()
}
