//! Which headers of a client an upstream may see, by their names.
//!
//! A name is judged as an upstream may read it, see [`name_as_read`](super::claims::name_as_read).

/// Headers that concern one connection only (RFC 9110 section 7.6.1), beside those that `Connection` names.
/// `HTTP2-Settings` would ask for another upgrade (RFC 9113 section 3.1).
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers of the request to the upstream that Tollgate writes, beside those that carry claims.
const WRITTEN: [&str; 6] =
    ["host", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"];
/// And the opening handshake's.
const WRITTEN_PREFIX: &str = "sec-websocket-";

/// Headers that a proxy in front of an upstream sets and that the upstream therefore may believe: the client's address,
/// its identity, the host, path and method that it asked for. A client's own word on these counts for nothing, and a path
/// or method of this kind is not the one that was judged.
const TRUSTED: [&str; 62] = [
    // The client's address.
    "ali-cdn-real-ip",
    "cdn-client-ip",
    "cdn-real-ip",
    "cdn-src-ip",
    "client-ip",
    "clientip",
    "coming-from",
    "connecting-ip",
    "do-connecting-ip",
    "eo-client-ip",
    "eo-connecting-ip",
    "forwarded-for",
    "forwarded-for-ip",
    "forward-for",
    "gcdn-client-ip",
    "http-client-ip",
    "incap-client-ip",
    "proxy-client-ip",
    "real-ip",
    "true-client-ip",
    "via-client-ip",
    "wl-proxy-client-ip",
    "x-client-addr",
    "x-client-address",
    "x-client-ip",
    "x-client-real-ip",
    "x-client-src-ip",
    "x-clientip",
    "x-cluster-client-ip",
    "x-cluster-ip",
    "x-coming-from",
    "x-connecting-ip",
    "x-custom-ip-authorization",
    "x-edge-client-ip",
    "x-forward-for",
    "x-forward",
    "x-forwarded",
    "x-forwarder-for",
    "x-gateway-client-ip",
    "x-ip",
    "x-nf-client-connection-ip",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-source-ip",
    "x-sucuri-clientip",
    "x-true-client-ip",
    "x-true-ip",
    // Whether it came over TLS, and with which certificate (RFC 9440).
    "client-cert",
    "client-cert-chain",
    "front-end-https",
    "x-scheme",
    "x-url-scheme",
    // Another host, path or method, or the part of the path that was taken off.
    "script-name",
    "x-host",
    "x-matched-path",
    "x-method-override",
    "x-override-url",
    "x-request-uri",
    "x-script-name",
    // A proxy for the upstream's own requests (CVE-2016-5385), and an answer before the real one.
    "expect",
    "proxy",
    // Files that a proxy sends in place of the upstream.
    "x-sendfile-type",
];

/// And everything that begins so.
const TRUSTED_PREFIXES: [&str; 35] = [
    "akamai-",
    "cf-",
    "cloudfront-",
    "fastly-",
    "fly-",
    "remote-",
    "ssl-client-",
    "tailscale-user-",
    "x-accel-",
    "x-akamai-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-arr-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-azure-",
    "x-client-cert",
    "x-client-ssl-",
    "x-client-tls-",
    "x-envoy-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-http-",
    "x-invoke-",
    "x-middleware-",
    "x-ms-client-principal",
    "x-original-",
    "x-pomerium-",
    "x-real-",
    "x-remote-",
    "x-rewrite-",
    "x-ssl-",
    "x-vercel-",
    "x-webauth-",
];

/// What a name says of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It concerns one connection only.
    HopByHop,
    /// Tollgate writes it into every request to an upstream.
    Written,
    /// An upstream may believe it because a proxy usually sets it.
    Trusted,
    /// Anything else.
    Plain,
}

impl Class {
    /// The class of a name, as [`name_as_read`] gives it.
    pub fn of(read: &str) -> Self {
        let begins = |prefix: &&str| read.starts_with(prefix);
        if HOP_BY_HOP.contains(&read) {
            Self::HopByHop
        } else if WRITTEN.contains(&read) || begins(&WRITTEN_PREFIX) {
            Self::Written
        } else if TRUSTED.contains(&read) || TRUSTED_PREFIXES.iter().any(begins) {
            Self::Trusted
        } else {
            Self::Plain
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::super::claims::name_as_read;
    use super::*;

    #[test]
    fn names_are_judged_as_an_upstream_may_read_them() {
        let table = [
            (Class::Trusted, &["X-Original-URL", "x_original_url", "X.HTTP~Method_Override", "Proxy", "Expect"][..]),
            (Class::Trusted, &["CF_Connecting_IPv6", "X-Real-IP", "X-Forwarded-User", "X_Forwarded", "Client-IP"]),
            (Class::Written, &["Host", "X-Forwarded_For", "X.Request.Id", "Sec_WebSocket_Key", "Sec-WebSocket-Later"]),
            (Class::HopByHop, &["TE", "Keep_Alive", "Connection", "Proxy-Authorization"]),
            (Class::Plain, &["Cookie", "User-Agent", "Origin", "Authorization", "X-Requested-With", "X-Api-Key"]),
            (Class::Plain, &["X-CSRF-Token", "Proxy-X", "X-Client-Id", "X-Hostname", "Traceparent", "Expected"]),
        ];
        for (class, names) in table {
            for name in names {
                assert_eq!(Class::of(&name_as_read(&name.parse::<HeaderName>().unwrap())), class, "{name}");
            }
        }
    }

    #[test]
    fn the_tables_hold_names_as_they_are_read() {
        for name in [&HOP_BY_HOP[..], &WRITTEN, &TRUSTED, &TRUSTED_PREFIXES, &[WRITTEN_PREFIX]].concat() {
            assert_eq!(name_as_read(&name.parse::<HeaderName>().unwrap()), name);
        }
    }
}
