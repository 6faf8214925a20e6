//! Which headers of a client an upstream may see, by their names.
//!
//! A name is judged as an upstream may read it, see [`canonical_header_name`](super::claims::canonical_header_name).

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
///
/// These and [`TRUSTED_PREFIXES`] are without the `x-` that many of them have: each name is meant with it and without it.
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
    // Whether it came over TLS, and with which certificate (RFC 9440).
    "clientcert",
    "forward-proto",
    "front-end-https",
    "https",
    "scheme",
    "tls-client-cert",
    "url-scheme",
    // Another host, path or method, or the part of the path that was taken off.
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
    // A proxy for the upstream's own requests (CVE-2016-5385), and an answer before the real one.
    "expect",
    "proxy",
    // Files that a proxy sends in place of the upstream.
    "sendfile-type",
];

/// And everything that begins so.
const TRUSTED_PREFIXES: [&str; 40] = [
    // `WebSphere`'s `$WSRA`, `$WSRU` and others.
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

/// What a name says of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderClass {
    /// It concerns one connection only.
    HopByHop,
    /// Tollgate writes it into every request to an upstream.
    Written,
    /// An upstream may believe it because a proxy usually sets it.
    Trusted,
    /// Anything else.
    Plain,
}

impl HeaderClass {
    /// The class of a name, as [`canonical_header_name`](super::claims::canonical_header_name) gives it.
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
    fn names_are_judged_as_an_upstream_may_read_them() {
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
            (HeaderClass::HopByHop, &["TE", "Keep_Alive", "Connection", "Proxy-Authorization"]),
            (HeaderClass::Plain, &["Cookie", "User-Agent", "Origin", "Authorization", "X-Requested-With", "X-Api-Key"]),
            (HeaderClass::Plain, &["X-CSRF-Token", "Proxy-X", "X-Client-Id", "X-Hostname", "Traceparent", "Expected"]),
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

    /// Each of these is what some proxy, gateway or framework sets or believes.
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

    /// Each of these is the application's own, or says nothing that an upstream believes because of a proxy.
    const ORDINARY: &str = "
        X-Requested-With X-CSRF-Token X-XSRF-Token X-Api-Key Api-Key X-API-Version X-Client-Version X-Client-Name
        X-Client-Id X-Client-Info X-User-Agent X-Device-Id X-Session-Id X-Session-Token X-Tenant-Id X-Correlation-Id
        X-User-Id X-User-Name X-Auth-Token X-Access-Token X-Trace-Id X-B3-TraceId X-Amzn-Trace-Id X-Cloud-Trace-Context
        X-Datadog-Trace-Id X-Goog-Api-Key X-Amz-Date X-Amz-Security-Token X-MS-Version X-Locale X-Timezone X-App-Version
        X-Platform X-Signature X-Timestamp X-Nonce X-Powered-By X-Hostname X-Origin X-Name X-Methods X-Urls X-Ipad
        X-Wsse X-Ws-Token Authorization Cookie Origin Referer Accept Accept-Encoding Accept-Language Accept-Charset
        Cache-Control Pragma User-Agent DNT Priority Via From Range Date Content-Type If-None-Match
        Upgrade-Insecure-Requests Traceparent Tracestate Baggage B3 Sentry-Trace Save-Data Sec-Fetch-Site Sec-Fetch-Mode
        Sec-CH-UA Sec-GPC OpenAI-Beta OIDC Remote Consumer Client Azure
    ";

    #[test]
    fn a_name_is_meant_with_and_without_its_x() {
        for name in BELIEVED.split_whitespace() {
            assert_eq!(
                HeaderClass::of(&canonical_header_name(&name.parse::<HeaderName>().unwrap())),
                HeaderClass::Trusted,
                "{name}"
            );
        }
        for name in TRUSTED.iter().chain(&TRUSTED_PREFIXES) {
            // `Host` and `Forwarded` are written anew, and so is what begins as they do.
            let bare = HeaderClass::of(name);
            assert!(matches!(bare, HeaderClass::Trusted | HeaderClass::Written), "{name}");
            assert_eq!(HeaderClass::of(&format!("x-{name}")), HeaderClass::Trusted, "x-{name}");
        }
    }

    #[test]
    fn ordinary_headers_pass() {
        for name in ORDINARY.split_whitespace() {
            assert_eq!(
                HeaderClass::of(&canonical_header_name(&name.parse::<HeaderName>().unwrap())),
                HeaderClass::Plain,
                "{name}"
            );
        }
    }

    #[test]
    fn the_tables_hold_names_as_they_are_read() {
        for name in [&HOP_BY_HOP[..], &WRITTEN, &TRUSTED, &TRUSTED_PREFIXES, &[WRITTEN_PREFIX]].concat() {
            assert_eq!(canonical_header_name(&name.parse::<HeaderName>().unwrap()), name);
            assert!(name == WRITTEN_PREFIX || WRITTEN.contains(&name) || !name.starts_with("x-"), "{name}");
        }
    }
}
