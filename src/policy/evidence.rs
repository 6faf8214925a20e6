//! The evidence by which a client of a route is authenticated.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::forward::{Answered, ForwardAuth};
use super::route::AuthMethod;
use super::token::Verifier;

/// The evidence of a client's identity.
pub enum Evidence<'a> {
    /// Nothing: the route requires no authentication.
    None,
    /// A token, and the section that recognises it with its verifier.
    Token(Arc<AuthMethod>, Arc<Verifier>, Cow<'a, str>),
    /// The section whose service must be asked. It is not evidence:
    /// [`authenticate`](super::admission::Candidate::authenticate) rejects it.
    Ask(Arc<AuthMethod>, Arc<ForwardAuth>),
    /// The answer of that service, which admits the client.
    Answer(Arc<AuthMethod>, Arc<ForwardAuth>, Answered),
}

/// The kind only: a token is a secret.
impl fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(..) => "Token",
            Self::Ask(..) => "Ask",
            Self::Answer(..) => "Answer",
        })
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm;

    use super::super::key::KeySet;
    use super::super::route::AuthKind;
    use super::super::token::tests::parts;
    use super::*;

    #[test]
    fn debug_contains_no_token() {
        let algorithms = [Algorithm::HS256];
        let keys = KeySet::from_secret(&[b'k'; 32], &algorithms).unwrap();
        let verifier = Arc::new(Verifier::new(parts(keys, &algorithms)));
        let method = AuthMethod { name: "users".into(), kind: AuthKind::Token(Arc::clone(&verifier)) };
        let evidence = Evidence::Token(Arc::new(method), verifier, "secret".into());
        assert_eq!(format!("{evidence:?} {:?}", Evidence::None), "Token None");
    }
}
