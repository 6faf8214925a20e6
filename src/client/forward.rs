//! Asks the service of a forward authentication section.

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Bytes;

use super::clients::HttpClients;
use super::http_client::RequestLimits;
use crate::policy::forward::{ForwardAnswer, ForwardAuth, Question};

/// The maximum size of the body of a response, which a rejected client gets.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// The maximum number of cookies of an answer that the client gets.
const COOKIES_MAX: usize = 16;

/// The decision of the service.
#[derive(Debug)]
pub enum Decision {
    /// The client is admitted. The service may renew its cookies.
    Admitted(Arc<ForwardAnswer>, Vec<HeaderValue>),
    /// The client is rejected with this response: 401, 403 or 3xx.
    Rejected(Response<Bytes>),
    /// There is no decision, for this reason.
    Unavailable(String),
}

/// Asks the service. An earlier answer is not reused, and this one is kept.
pub async fn ask(clients: &HttpClients, forward: &ForwardAuth, question: &Question) -> Decision {
    let config = forward.config();
    let client = match clients.trusting(&config.roots) {
        Ok(client) => client,
        Err(error) => return Decision::Unavailable(error.to_string()),
    };
    let limits = RequestLimits { timeout: config.timeout, body_max_bytes: BODY_MAX_BYTES };
    let response = match client.send(question.request(config), limits).await {
        Ok(response) => response,
        Err(error) => return Decision::Unavailable(error.to_string()),
    };
    let status = response.status();
    if status.is_success() {
        return match ForwardAnswer::new(response.headers(), config) {
            Ok(answer) => {
                let cookies = response.headers().get_all(SET_COOKIE).iter().take(COOKIES_MAX).cloned().collect();
                Decision::Admitted(Arc::new(answer), cookies)
            }
            Err(error) => Decision::Unavailable(error.label().to_owned()),
        };
    }
    forward.forget(question);
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || status.is_redirection() {
        Decision::Rejected(response)
    } else {
        Decision::Unavailable(format!("the service answered {}", status.as_u16()))
    }
}
