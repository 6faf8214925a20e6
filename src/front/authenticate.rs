//! Authenticates the client of a request: waits for the keys of its token, or asks the service of its route.

use std::sync::Arc;

use http::HeaderValue;

use super::gateway::Gateway;
use super::keys::wait_for_keys;
use super::question;
use super::response::RejectedRequest;
use crate::client::clients::HttpClients;
use crate::client::forward::{Decision, ask};
use crate::policy::admission::{Authenticated, Candidate};
use crate::policy::evidence::Evidence;
use crate::policy::forward::{Answered, AuthOutcome, ForwardAuth};
use crate::policy::rejection::Rejection;
use crate::policy::route::AuthMethod;
use crate::runtime::clock;

/// A client that was authenticated, and the cookies that its response adds.
pub(super) type WithCookies<'a> = (Authenticated<'a>, Vec<HeaderValue>);

/// Authenticates the client. A request that needs keys waits for them, and one that a service decides on waits for its
/// answer, for its timeout at most.
pub(super) async fn authenticate<'a>(
    gateway: &Gateway,
    clients: &HttpClients,
    candidate: Candidate<'a>,
) -> Result<WithCookies<'a>, RejectedRequest> {
    let (method, forward) = match candidate.evidence()? {
        Evidence::Ask(method, forward) => (method, forward),
        evidence => {
            if let Evidence::Token(method, verifier, token) = &evidence {
                let client = candidate.facts().address;
                let waited = wait_for_keys(gateway, client, verifier, token).await;
                waited.map_err(|rejection| candidate.reject_by(method, rejection))?;
            }
            return Ok((candidate.authenticate(&evidence, clock::both())?, Vec::new()));
        }
    };
    let (evidence, cookies) = answer(gateway, clients, &candidate, method, &forward).await?;
    Ok((candidate.authenticate(&evidence, clock::both())?, cookies))
}

/// Returns the answer of the service, or an earlier one to the same question.
async fn answer<'a>(
    gateway: &Gateway,
    clients: &HttpClients,
    candidate: &Candidate<'a>,
    method: Arc<AuthMethod>,
    forward: &Arc<ForwardAuth>,
) -> Result<(Evidence<'a>, Vec<HeaderValue>), RejectedRequest> {
    let reject = |rejection| RejectedRequest::from(candidate.reject_by(&method, rejection));
    let question = question::about(candidate.facts());
    let (answer, cookies) = if let Some(answer) = forward.known(&question, clock::now()) {
        forward.count(AuthOutcome::Reused);
        (answer, Vec::new())
    } else {
        let _waiting = gateway.wait(candidate.facts().address).ok_or_else(|| reject(Rejection::AuthBusy))?;
        let _pending = forward.pend().ok_or_else(|| reject(Rejection::AuthBusy))?;
        match ask(clients, forward, &question).await {
            Decision::Admitted(answer, cookies) => {
                forward.keep(&question, &answer, clock::now());
                (answer, cookies)
            }
            Decision::Rejected(response) => {
                let rejected = reject(Rejection::AuthStatus(response.status()));
                return Err(RejectedRequest { response: Some(response), ..rejected });
            }
            Decision::Unavailable(detail) => {
                return Err(RejectedRequest { detail: Some(detail), ..reject(Rejection::AuthUnavailable) });
            }
        }
    };
    let question = forward.config().recheck_interval.map(|_| Arc::new(question));
    Ok((Evidence::Answer(method, Arc::clone(forward), Answered { answer, question }), cookies))
}
