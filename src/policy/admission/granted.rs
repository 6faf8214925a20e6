//! The parts of an admission that do not depend on its kind.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::{Authenticated, Candidate};
use crate::policy::credential::TokenSource;
use crate::policy::grant::{Grant, SessionToken};
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::route::Route;

/// The longest `Origin` that is kept. An origin that a list can match is shorter: its host has at most 253 bytes.
const ORIGIN_MAX_BYTES: usize = 512;

/// The parts of an admission that do not depend on its kind.
pub(super) struct Granted {
    pub(super) route: Arc<Route>,
    pub(super) grant: Grant,
    pub(super) claim_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) stripped: Arc<[TokenSource]>,
}

impl Authenticated<'_> {
    /// Returns the name of the section that authenticated the client.
    pub(super) fn auth(&self) -> Option<Arc<str>> {
        self.method.as_ref().map(|method| Arc::clone(&method.name))
    }

    pub(super) fn reject(&self, rejection: Rejection) -> Rejected {
        Rejected { auth: self.auth(), subject: self.subject.clone(), ..self.candidate.reject(rejection) }
    }

    pub(super) fn grant(self) -> Granted {
        let auth = self.auth();
        let Self { candidate, token, answered, subject, claim_headers, stripped, .. } = self;
        let Candidate { facts, route, params, host, .. } = candidate;
        let origin = facts.origin.map(|origin| origin.get(..ORIGIN_MAX_BYTES).unwrap_or(origin).into());
        let (token, host, address) = (SessionToken::new(token), host.into(), facts.address);
        let grant = Grant { auth, subject, token, answered, params, host, origin, address };
        Granted { route, grant, claim_headers, stripped }
    }
}
