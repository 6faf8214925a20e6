//! Classifies request headers by name: which ones of a client an upstream may see.
//!
//! Names are compared as an upstream may read them, see
//! [`canonical_header_name`](super::claims::canonical_header_name).

/// Headers that concern one connection only (RFC 9110 section 7.6.1), in addition to those that `Connection` lists.
/// `HTTP2-Settings` would request another upgrade (RFC 9113 section 3.1).
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

/// Headers that Tollgate writes into the request to the upstream, in addition to those that carry claims.
const WRITTEN: [&str; 8] = [
    "host",
    "forwarded",
    "traceparent",
    "tracestate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];
/// The prefix of the headers of the opening handshake, which Tollgate writes, too.
const WRITTEN_PREFIX: &str = "sec-websocket-";

/// Headers that a proxy in front of an upstream usually sets, so that the upstream may trust them: the client's
/// address, its identity, the host, path and method of the request. A client must not set them, and a path or method in
/// such a header is not the one that the policy checked.
///
/// These and [`TRUSTED_PREFIXES`] omit the `x-` with which many of them begin: each name matches with and without it.
const TRUSTED: [&str; 73] = [
    // The client's address.
    "ali-cdn-real-ip",
    "cdn-client-ip",
    "cdn-real-ip",
    "cdn-src-ip",
    "client-addr",
    "client-address",
    "client-ip",
    "client-real-ip",
    "client-src-ip",
    "clientip",
    "cluster-client-ip",
    "cluster-clientip",
    "cluster-ip",
    "coming-from",
    "connecting-ip",
    "custom-ip-authorization",
    "do-connecting-ip",
    "edge-client-ip",
    "eo-client-ip",
    "eo-connecting-ip",
    "forward",
    "forward-for",
    "forwarded",
    "forwarder-for",
    "gateway-client-ip",
    "gcdn-client-ip",
    "incap-client-ip",
    "ip",
    "nf-client-connection-ip",
    "originating-ip",
    "proxy-client-ip",
    "proxyuser-ip",
    "rlnclientipaddr",
    "source-ip",
    "src-ip",
    "sucuri-clientip",
    "true-client-ip",
    "true-ip",
    "user-ip",
    "via-client-ip",
    "z-forwarded-for",
    // The client's identity.
    "auth-user",
    "client-dn",
    "client-verify",
    "credential-identifier",
    "endpoint-api-userinfo",
    "eppn",
    "sm-user",
    "sso-user",
    // Whether the request arrived over TLS, and the client certificate (RFC 9440).
    "clientcert",
    "forward-proto",
    "front-end-https",
    "https",
    "scheme",
    "tls-client-cert",
    "url-scheme",
    // Another host, path or method, or the part of the path that a proxy removed.
    "base-url",
    "host",
    "host-override",
    "matched-path",
    "method",
    "method-override",
    "override-url",
    "request-uri",
    "request-url",
    "rewritten-url",
    "script-name",
    "uri",
    "url",
    "vhost",
    // A proxy for the upstream's own requests (CVE-2016-5385), and a request for an interim response.
    "expect",
    "proxy",
    // Files that a proxy sends instead of the upstream.
    "sendfile-type",
];

/// The prefixes of further headers of this kind, without `x-`.
const TRUSTED_PREFIXES: [&str; 40] = [
    // `$WSRA`, `$WSRU` and others of `WebSphere`.
    "-ws",
    "accel-",
    "akamai-",
    "amzn-oidc-",
    "appengine-",
    "arr-",
    "auth-request-",
    "authenticated-",
    "authentik-",
    "azure-",
    "cf-",
    "client-cert",
    "client-ssl-",
    "client-tls-",
    "cloudfront-",
    "consumer-",
    "envoy-",
    "fastly-",
    "fly-",
    "forwarded-",
    "goog-authenticated-user-",
    "http-",
    "invoke-",
    "l5d-",
    "mellon-",
    "middleware-",
    "ms-client-principal",
    "ms-token-aad-",
    "oidc-",
    "original-",
    "pomerium-",
    "real-",
    "remote-",
    "rewrite-",
    "ssl-",
    "tailscale-user-",
    "vercel-",
    "waws-",
    "webauth-",
    "wl-proxy-",
];

/// The class of a request header, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderClass {
    /// A header that concerns one connection only.
    HopByHop,
    /// A header that Tollgate writes into every request to an upstream.
    Written,
    /// A header that an upstream may trust because a proxy usually sets it.
    Trusted,
    /// Any other header.
    Plain,
}

impl HeaderClass {
    /// Returns the class of a name in the form of [`canonical_header_name`](super::claims::canonical_header_name).
    pub fn of(read: &str) -> Self {
        let bare = read.strip_prefix("x-").unwrap_or(read);
        if HOP_BY_HOP.contains(&read) {
            Self::HopByHop
        } else if WRITTEN.contains(&read) || read.starts_with(WRITTEN_PREFIX) {
            Self::Written
        } else if TRUSTED.contains(&bare) || TRUSTED_PREFIXES.iter().any(|prefix| bare.starts_with(prefix)) {
            Self::Trusted
        } else {
            Self::Plain
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::super::claims::canonical_header_name;
    use super::*;

    #[test]
    fn names_are_compared_as_an_upstream_may_read_them() {
        let table = [
            (
                HeaderClass::Trusted,
                &["X-Original-URL", "x_original_url", "X.HTTP~Method_Override", "Proxy", "Expect"][..],
            ),
            (
                HeaderClass::Trusted,
                &["CF_Connecting_IPv6", "X-Real-IP", "X-Forwarded-User", "X_Forwarded", "Client-IP"],
            ),
            (
                HeaderClass::Written,
                &["Host", "X-Forwarded_For", "X.Request.Id", "Sec_WebSocket_Key", "Sec-WebSocket-Later"],
            ),
            (HeaderClass::Written, &["Traceparent", "TraceState"]),
            (HeaderClass::HopByHop, &["TE", "Keep_Alive", "Connection", "Proxy-Authorization"]),
            (HeaderClass::Plain, &["Cookie", "User-Agent", "Origin", "Authorization", "X-Requested-With", "X-Api-Key"]),
            (HeaderClass::Plain, &["X-CSRF-Token", "Proxy-X", "X-Client-Id", "X-Hostname", "Baggage", "Expected"]),
        ];
        for (class, names) in table {
            for name in names {
                assert_eq!(
                    HeaderClass::of(&canonical_header_name(&name.parse::<HeaderName>().unwrap())),
                    class,
                    "{name}"
                );
            }
        }
    }

    /// Headers that some proxy, gateway or framework sets or trusts.
    const BELIEVED: &str = "
        X-Credential-Identifier SM-User SM_USER Eppn X-Auth-User X-SSO-User X-TLS-Client-Cert X-ClientCert X-Client-Dn
        X-Client-Verify X-Endpoint-API-UserInfo X-Consumer-Username X-Consumer-Custom-ID OIDC_CLAIM_email OIDC-Sub
        Mellon-Name-Id X-MS-Token-AAD-Id-Token X-MS-Client-Principal-Name MS-Client-Principal L5d-Client-Id
        $WSRA $WSRU $WSSC $WSCC WL-Proxy-SSL WL-Proxy-Client-Cert Remote-User X-Remote-User X-WAWS-Unencoded-URL
        X-User-IP X-Cluster-ClientIP Cluster-Client-IP X-Cluster-Client-IP Source-IP X-Source-IP X-Src-IP
        Z-Forwarded-For X-CF-Client-IP RLNClientIPAddr X-Cdn-Src-Ip Cdn-Src-Ip X-True-Client-IP True-Client-IP
        X-Rewritten-URL X-Request-URL Request-Uri X-Request-Uri X-Url X-URI Base-Url X-Method Method X-Host-Override
        X-Vhost X-Forward-Proto Https Front-End-Https X-Front-End-Https X-Scheme X-Host X-Original-URL Original-URL
        Forwarded-For Forwarded-Proto X-Proxy X-Expect X-SSL-Client-Cert SSL-Client-Verify HTTP-Client-IP Real-IP
    ";

    /// Headers of applications, or without a fact that an upstream trusts because a proxy sets it.
    const ORDINARY: &str = "
        X-Requested-With X-CSRF-Token X-XSRF-Token X-Api-Key Api-Key X-API-Version X-Client-Version X-Client-Name
        X-Client-Id X-Client-Info X-User-Agent X-Device-Id X-Session-Id X-Session-Token X-Tenant-Id X-Correlation-Id
        X-User-Id X-User-Name X-Auth-Token X-Access-Token X-Trace-Id X-B3-TraceId X-Amzn-Trace-Id X-Cloud-Trace-Context
        X-Datadog-Trace-Id X-Goog-Api-Key X-Amz-Date X-Amz-Security-Token X-MS-Version X-Locale X-Timezone X-App-Version
        X-Platform X-Signature X-Timestamp X-Nonce X-Powered-By X-Hostname X-Origin X-Name X-Methods X-Urls X-Ipad
        X-Wsse X-Ws-Token Authorization Cookie Origin Referer Accept Accept-Encoding Accept-Language Accept-Charset
        Cache-Control Pragma User-Agent DNT Priority Via From Range Date Content-Type If-None-Match
        Upgrade-Insecure-Requests Baggage B3 Sentry-Trace Save-Data Sec-Fetch-Site Sec-Fetch-Mode
        Sec-CH-UA Sec-GPC OpenAI-Beta OIDC Remote Consumer Client Azure
    ";

    #[test]
    fn trusted_names_match_with_and_without_x() {
        for name in BELIEVED.split_whitespace() {
            assert_eq!(
                HeaderClass::of(&canonical_header_name(&name.parse::<HeaderName>().unwrap())),
                HeaderClass::Trusted,
                "{name}"
            );
        }
        for name in TRUSTED.iter().chain(&TRUSTED_PREFIXES) {
            // `Host` and `Forwarded` without `x-` are written by Tollgate.
            let bare = HeaderClass::of(name);
            assert!(matches!(bare, HeaderClass::Trusted | HeaderClass::Written), "{name}");
            assert_eq!(HeaderClass::of(&format!("x-{name}")), HeaderClass::Trusted, "x-{name}");
        }
    }

    #[test]
    fn ordinary_headers_are_plain() {
        for name in ORDINARY.split_whitespace() {
            assert_eq!(
                HeaderClass::of(&canonical_header_name(&name.parse::<HeaderName>().unwrap())),
                HeaderClass::Plain,
                "{name}"
            );
        }
    }

    #[test]
    fn the_tables_contain_canonical_names() {
        for name in [&HOP_BY_HOP[..], &WRITTEN, &TRUSTED, &TRUSTED_PREFIXES, &[WRITTEN_PREFIX]].concat() {
            assert_eq!(canonical_header_name(&name.parse::<HeaderName>().unwrap()), name);
            assert!(name == WRITTEN_PREFIX || WRITTEN.contains(&name) || !name.starts_with("x-"), "{name}");
        }
    }
}
