//! The hash of the part of a request that selects its server, for `balance = "hash:..."`.

use super::address::AddressKey;
use super::credential;
use super::grant::Grant;
use super::request::RequestFacts;
use crate::balance::hash::TextHash;
use crate::balance::{Balance, HashSource};

/// Returns the hash of the part of an admitted request by which its server is chosen. `None` if the policy uses no hash,
/// or the request has no such part, or an empty one.
pub fn hash_key(balance: &Balance, facts: &RequestFacts<'_>, grant: &Grant) -> Option<TextHash> {
    let Balance::Hash(source) = balance else { return None };
    let hash = |text: &[u8]| (!text.is_empty()).then(|| TextHash::of(text));
    match source {
        HashSource::Subject => {
            // An identity is a section and a subject. The name of a section contains no line break.
            let (auth, subject) = (grant.auth.as_deref()?, grant.subject.as_deref()?);
            hash(format!("{auth}\n{subject}").as_bytes())
        }
        HashSource::Address => hash(AddressKey::from(grant.address).network().to_string().as_bytes()),
        HashSource::Cookie(name) => hash(credential::cookies(facts.headers, name).next()?),
        HashSource::Query(name) => hash(credential::query_parameter(facts.query?, name)?.as_bytes()),
        HashSource::Header(name) => hash(facts.headers.get(name)?.as_bytes()),
        HashSource::Path(name) => hash(grant.params.get(name)?.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::HeaderMap;

    use super::*;
    use crate::policy::forwarded::Scheme;
    use crate::policy::grant::SessionToken;
    use crate::policy::pattern::Params;
    use crate::policy::request::RequestKind;

    fn grant(subject: Option<&str>, address: &str) -> Grant {
        Grant {
            auth: Some("users".into()),
            subject: subject.map(Into::into),
            token: SessionToken::new(None),
            answered: None,
            params: Params::new(vec![("room".into(), "blue".to_owned()), ("rest".into(), String::new())]),
            host: "a.example".into(),
            origin: None,
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn each_source_hashes_its_part_of_the_request() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=1; sid=\"s-1\"".parse().unwrap());
        headers.append("cookie", "sid=s-2; empty=".parse().unwrap());
        headers.append("x-shard", "7".parse().unwrap());
        let facts = RequestFacts {
            kind: RequestKind::WebSocket,
            authority: "a.example",
            path: "/ws/blue/",
            query: Some("a=1&doc=p%2Fq&doc=other"),
            origin: None,
            headers: &headers,
            protocols: &[],
            address: IpAddr::from([192, 0, 2, 1]),
            scheme: Scheme::Https,
            id: 1,
        };
        let (ann, nobody) = (grant(Some("ann"), "192.0.2.1"), grant(None, "2001:db8::1:2:3:4"));
        let name = str::to_owned;
        let table: &[(HashSource, &Grant, Option<&str>)] = &[
            (HashSource::Subject, &ann, Some("users\nann")),
            (HashSource::Subject, &nobody, None),
            (HashSource::Address, &ann, Some("192.0.2.1")),
            (HashSource::Address, &nobody, Some("2001:db8::")),
            (HashSource::Cookie(name("sid")), &ann, Some("s-1")),
            (HashSource::Cookie(name("empty")), &ann, None),
            (HashSource::Cookie(name("other")), &ann, None),
            (HashSource::Query(name("doc")), &ann, Some("p/q")),
            (HashSource::Query(name("other")), &ann, None),
            (HashSource::Header("x-shard".parse().unwrap()), &ann, Some("7")),
            (HashSource::Header("x-other".parse().unwrap()), &ann, None),
            (HashSource::Path(name("room")), &ann, Some("blue")),
            (HashSource::Path(name("rest")), &ann, None),
            (HashSource::Path(name("other")), &ann, None),
        ];
        for (source, grant, expected) in table {
            let key = hash_key(&Balance::Hash(source.clone()), &facts, grant);
            assert_eq!(key, expected.map(|text| TextHash::of(text.as_bytes())), "{source:?}");
        }
        for balance in [Balance::LeastSessions, Balance::RoundRobin] {
            assert_eq!(hash_key(&balance, &facts, &ann), None);
        }
    }
}
