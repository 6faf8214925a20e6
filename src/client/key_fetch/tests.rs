use tokio::net::TcpListener;

use super::super::tests::{block_on, jwks, response, serve};
use super::*;
use crate::policy::remote::Roots;

/// Fetches from a server on `http://127.0.0.1:PORT`, whose answers may contain `@BASE@` for that.
fn fetch_from(
    location: impl Fn(&str) -> KeyLocation,
    answer: impl Fn(&str) -> (String, String),
) -> Result<Fetched, FetchError> {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let remote = RemoteKeys { location: location(&base), roots: Roots::Certificates(Vec::new().into()) };
        let answer = |path: &str| {
            let (head, body) = answer(path);
            response(&head.replace("@BASE@", &base), &body.replace("@BASE@", &base))
        };
        serve(listener, answer, async { fetch(&client(&remote), &remote).await }).await
    })
}

fn jwks_at(base: &str) -> KeyLocation {
    KeyLocation::Jwks(HttpUrl::parse(&format!("{base}/keys?tenant=1")).unwrap())
}

/// Fetches a set that is answered so, and returns the error without the URL.
fn error_of(head: &str, body: &str) -> String {
    let error = fetch_from(jwks_at, |_| (head.to_owned(), body.to_owned())).unwrap_err().to_string();
    let (url, text) = error.split_once("/keys: ").unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{error}");
    text.to_owned()
}

#[test]
fn a_set_is_fetched_with_its_lifetime() {
    let fetched = fetch_from(jwks_at, |path| {
        assert_eq!(path, "/keys?tenant=1");
        ("200 OK\r\nCache-Control: max-age=600\r\nAge: 100".to_owned(), jwks(&["a", "b"]))
    });
    let Fetched { keys, lifetime, .. } = fetched.unwrap();
    assert_eq!((keys.ids().count(), lifetime), (2, Some(Duration::from_secs(500))));
}

#[test]
fn an_answer_that_is_not_a_key_set_is_an_error() {
    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    let many = jwks(&many.iter().map(String::as_str).collect::<Vec<_>>());
    for (head, body, expected) in [
        ("500 Internal Server Error", jwks(&["a"]), "the status is 500 instead of 200"),
        ("404 Not Found", String::new(), "the status is 404 instead of 200"),
        ("204 No Content", String::new(), "the status is 204 instead of 200"),
        ("302 Found\r\nLocation: @BASE@/other", String::new(), "the answer is a redirect (302), which is not followed"),
        ("200 OK", String::new(), "the response is empty"),
        ("200 OK", "<html>".to_owned(), "the key set cannot be used: is not JSON at line 1, column 1"),
        ("200 OK", "[]".to_owned(), "the key set cannot be used: is not a JWK set: an object with an array `keys`"),
        ("200 OK", jwks(&[]), "the key set cannot be used: has no keys"),
        ("200 OK", many, "the key set cannot be used: has more than 64 keys"),
        ("200 OK", " ".repeat(BODY_MAX_BYTES + 1), "the response is larger than 1048576 bytes"),
    ] {
        assert_eq!(error_of(head, &body), expected, "{head}");
    }
}

/// The location of an issuer at a path of the server.
fn issuer_at(base: &str) -> KeyLocation {
    KeyLocation::of_issuer(&format!("{base}/realm/")).unwrap()
}

/// Fetches by discovery. `configuration` is the issuer's answer.
fn discover_with(configuration: &str) -> Result<Fetched, FetchError> {
    fetch_from(issuer_at, |path| match path {
        "/realm/.well-known/openid-configuration" => ("200 OK".to_owned(), configuration.to_owned()),
        "/realm/keys" => ("200 OK".to_owned(), jwks(&["a"])),
        path => panic!("{path}"),
    })
}

#[test]
fn the_configuration_of_the_issuer_names_the_set() {
    let configuration = r#"{"issuer":"@BASE@/realm/","jwks_uri":"@BASE@/realm/keys","scopes_supported":["openid"]}"#;
    assert_eq!(discover_with(configuration).unwrap().keys.ids().count(), 1);
}

#[test]
fn a_configuration_that_cannot_be_used_is_an_error() {
    let error = |configuration: &str| {
        let error = discover_with(configuration).unwrap_err().to_string();
        error.split_once("openid-configuration: ").unwrap().1.to_owned()
    };
    let not = "not an OpenID configuration: a JSON object with `issuer` and `jwks_uri`";
    for configuration in ["", "[]", "{}", r#"{"issuer":"@BASE@/realm/"}"#, r#"{"issuer":7,"jwks_uri":"x"}"#] {
        assert_eq!(error(configuration), not, "{configuration}");
    }
    // The values must be identical (OpenID Connect Discovery section 4.3).
    for issuer in ["@BASE@/realm", "@BASE@/", "https://other.example.com/", "@BASE@/realm//"] {
        let configuration = format!(r#"{{"issuer":"{issuer}","jwks_uri":"@BASE@/realm/keys"}}"#);
        assert_eq!(error(&configuration), "the configuration is that of another issuer", "{issuer}");
    }
    for (url, expected) in [
        ("http://id.example.com/keys", UrlError::Insecure),
        ("https://user@id.example.com/keys", UrlError::UserInfo),
        ("/realm/keys", UrlError::Malformed),
        ("file:///etc/passwd", UrlError::Malformed),
    ] {
        let configuration = format!(r#"{{"issuer":"@BASE@/realm/","jwks_uri":"{url}"}}"#);
        assert_eq!(error(&configuration), format!("its jwks_uri cannot be used: {expected}"), "{url}");
    }
}

#[test]
fn a_remote_configuration_cannot_name_a_loopback_set_without_tls() {
    // The rule alone: no server of the tests has a name that is not a loopback name.
    let remote = HttpUrl::parse("https://id.example.com/.well-known/openid-configuration").unwrap();
    let local = HttpUrl::parse("http://localhost/.well-known/openid-configuration").unwrap();
    let set = HttpUrl::parse("http://127.0.0.1/keys").unwrap();
    assert!(!may_name(&remote, &set) && may_name(&local, &set));
    assert!(may_name(&remote, &HttpUrl::parse("https://keys.example.com/").unwrap()));
}
