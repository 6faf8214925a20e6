//! The changes of a route to the request that its upstream receives: headers that it sets and removes, and the path.

use std::fs;

use serde_json::json;

use crate::admin::Api;
use crate::headers::{seen, told};
use crate::support::gate::Gate;
use crate::support::pki::token;
use crate::support::request::Request;
use crate::support::secrets;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

/// Returns the first line and the fields that the upstream receives for a request.
fn asked(gate: &Gate, upstream: &Upstream, request: &Request) -> (String, Vec<(String, String)>) {
    let session = Session::open_with(gate, upstream, request, &[]);
    let (line, fields) = seen(&session.asked);
    (line, fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Returns the fields that every upstream receives, with `also` added.
fn expected(also: &[(&str, &str)]) -> Vec<(String, String)> {
    told("chat.example.com", also).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn with(request: Request, lines: &[&str]) -> Request {
    lines.iter().fold(request, |request, line| request.with(line))
}

#[test]
fn set_headers_replace_those_of_the_client_under_every_spelling() {
    let upstream = Upstream::bind();
    let set = "set_headers = { X-Region = \"eu west\", X-Real-IP = \"192.0.2.1\", Origin = \"https://own.example\" }";
    let gate = Setup::new().route(set).start(&upstream);
    let spoofed = [
        "X-Region: us",
        "x_region: us",
        "X.Region: us",
        "X-Real-IP: 10.0.0.1",
        "Origin: https://a.example",
        "X-Other: kept",
        "Connection: Upgrade, X-Region",
    ];
    let set = [("x-region", "eu west"), ("x-real-ip", "192.0.2.1"), ("origin", "https://own.example")];
    let also = [&set[..], &[("x-other", "kept")]].concat();
    assert_eq!(asked(&gate, &upstream, &with(Request::to("/open/"), &spoofed)).1, expected(&also));
    assert_eq!(asked(&gate, &upstream, &Request::to("/open/")).1, expected(&set));
}

#[test]
fn placeholders_carry_the_decoded_part_of_the_path() {
    let upstream = Upstream::bind();
    let route = "[[route]]\nname = \"rooms\"\npath = \"/rooms/{room}/{*rest}\"\nupstream = \"main\"\nauth = \"none\"\n\
                 set_headers = { X-Room = \"{room}\", X-Rest = \"at {rest}.\" }";
    let gate = Setup::new().more(route).start(&upstream);
    for (path, room, rest) in [
        ("/rooms/blue/a/b", "blue", "at a/b."),
        ("/rooms/a%20b%3Ac/", "a b:c", "at ."),
        ("/rooms/%62lue", "blue", "at ."),
        ("/rooms/100%25/x%27y", "100%", "at x'y."),
    ] {
        let (line, fields) = asked(&gate, &upstream, &Request::to(path).with("X-Room: red"));
        assert_eq!(line, format!("GET {path} HTTP/1.1"), "the path itself is unchanged");
        assert_eq!(fields, expected(&[("x-room", room), ("x-rest", rest)]));
    }
    for (path, rule) in [
        ("/rooms/a%0d%0aX-Evil:%201/", "control"),
        ("/rooms/a%00/", "control"),
        ("/rooms/%C2%85/", "control"),
        ("/rooms/caf%C3%A9/", "header_value"),
        ("/rooms/a,b/", "header_value"),
        ("/rooms/a%3Bb/", "header_value"),
        ("/rooms/a/x%22y", "header_value"),
        ("/rooms/%20blue/", "header_value"),
        ("/rooms/blue%20/", "header_value"),
    ] {
        assert_eq!(Client::connect(&gate).ask(&Request::to(path)).head.status(), 400, "{path}");
        assert_eq!(gate.log.next("refused")["rule"], rule, "{path}");
    }
    upstream.assert_untouched();
}

#[test]
fn removed_headers_do_not_reach_the_upstream() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("remove_headers = [\"Cookie\", \"X-Debug\", \"Origin\"]").start(&upstream);
    let lines = ["Cookie: a=b", "Cookie: c=d", "X-Debug: 1", "X_Debug: 2", "Origin: https://a.example", "X-Kept: 1"];
    assert_eq!(asked(&gate, &upstream, &with(Request::to("/open/"), &lines)).1, expected(&[("x-kept", "1")]));
}

/// The policy still reads the headers that are removed.
#[test]
fn a_removed_header_may_carry_the_token_and_is_checked() {
    let upstream = Upstream::bind();
    let gate = Setup::new()
        .auth("token_from = [\"cookie:session\"]\nforward_token = true")
        .route("origins = [\"https://a.example\"]\nremove_headers = [\"Cookie\", \"Origin\"]")
        .start(&upstream);
    let cookie = format!("Cookie: session={}; a=b", token(&json!({})));
    let request = |origin: &str| Request::to("/room/blue").with(&cookie).with(&format!("Origin: {origin}"));
    assert_eq!(asked(&gate, &upstream, &request("https://a.example")).1, expected(&[("x-user-id", "ada")]));
    assert_eq!(Client::connect(&gate).ask(&request("https://b.example")).head.status(), 403);
}

/// `Gate` searches the log for the secrets when it is dropped.
#[test]
fn a_secret_header_comes_from_its_file_and_follows_its_changes() {
    let (first, second) = ("Bearer first-upstream-token-0123456789", "Bearer second-upstream-token-0123456789");
    [first, second].into_iter().for_each(secrets::remember);
    let (upstream, api) = (Upstream::bind(), Api::new());
    let gate = Setup::new()
        .more(&api.section())
        .file("upstream-token", &format!("{first}\n"))
        .route("set_headers_file = { Authorization = \"upstream-token\" }")
        .log("level = \"trace\"")
        .start(&upstream);
    let sent = || asked(&gate, &upstream, &Request::to("/open/").with("Authorization: Basic eDp5")).1;
    assert_eq!(sent(), expected(&[("authorization", first)]));
    let mut open = Session::open(&gate, &upstream);
    open.echo("before");
    let settings = ["/v1/routes", "/v1/sessions", "/v1/events", "/v1/info"].map(|target| api.get(target).to_string());
    assert!(settings[0].contains("upstream-token"), "the name of the file is a setting: {}", settings[0]);
    assert_eq!(secrets::find(&settings.concat()), None);

    fs::write(gate.folder.path("upstream-token"), second).unwrap();
    gate.log.next("files reloaded");
    assert_eq!(sent(), expected(&[("authorization", second)]));
    open.echo("after");
    open.close();

    // A value that no header can carry leaves the earlier one in use.
    fs::write(gate.folder.path("upstream-token"), format!("{first}\nX-Evil: 1\n")).unwrap();
    gate.log.next("changed files cannot be used: the earlier ones stay in use");
    assert_eq!(sent(), expected(&[("authorization", second)]));
}

#[test]
fn a_secret_header_may_be_a_credential_of_the_service() {
    let secret = "Bearer credential-token-0123456789";
    secrets::remember(secret);
    let upstream = Upstream::bind();
    let folder = crate::support::gate::Folder::new();
    folder.write("upstream-token", secret);
    let gate = Setup::new()
        .environment("CREDENTIALS_DIRECTORY", folder.path("").to_str().unwrap())
        .route("set_headers_file = { Authorization = \"credential:upstream-token\" }")
        .start(&upstream);
    assert_eq!(asked(&gate, &upstream, &Request::to("/open/")).1, expected(&[("authorization", secret)]));
}

#[test]
fn a_prefix_is_stripped_and_the_rest_and_the_query_stay_as_sent() {
    let upstream = Upstream::bind();
    for (base, sent) in [("", ""), ("path = \"/base\"", "/base")] {
        let gate = Setup::new()
            .upstream(base)
            .more(&route("/chat/v1/{*rest}", "strip_prefix = \"/chat/v1\""))
            .start(&upstream);
        for (target, rest) in [
            ("/chat/v1/a%20b/?x=1&&y=%2f", "/a%20b/?x=1&&y=%2f"),
            ("/%63hat/v1/a", "/a"),
            ("/chat/v1/", "/"),
            ("/chat/v1?a", "/?a"),
            ("/chat/v1", "/"),
        ] {
            let (line, fields) = asked(&gate, &upstream, &Request::to(target));
            assert_eq!(line, format!("GET {sent}{rest} HTTP/1.1"), "{target}");
            assert_eq!(fields, expected(&[]));
        }
        assert_eq!(Client::connect(&gate).ask(&Request::to("/chat/v2")).head.status(), 404);
    }
}

#[test]
fn a_path_is_replaced_and_the_query_is_kept_without_the_token() {
    let upstream = Upstream::bind();
    for (base, sent) in [("", ""), ("path = \"/base\"", "/base")] {
        let gate =
            Setup::new().upstream(base).more(&route("/chat/{*rest}", "replace_path = \"/x%20y/\"")).start(&upstream);
        for (target, rest) in [("/chat/a?x=%20", "/x%20y/?x=%20"), ("/chat", "/x%20y/"), ("/chat/?", "/x%20y/?")] {
            assert_eq!(
                asked(&gate, &upstream, &Request::to(target)).0,
                format!("GET {sent}{rest} HTTP/1.1"),
                "{target}"
            );
        }
    }
    let gate = Setup::new().auth("token_from = [\"query:token\"]").route("replace_path = \"/\"").start(&upstream);
    let request = Request::to(&format!("/room/blue?a=1&token={}", token(&json!({}))));
    assert_eq!(asked(&gate, &upstream, &request).0, "GET /?a=1 HTTP/1.1");
}

/// Returns an open route with these lines.
fn route(path: &str, lines: &str) -> String {
    format!("[[route]]\nname = \"changed\"\npath = {path:?}\nupstream = \"main\"\nauth = \"none\"\n{lines}")
}

/// The path that the policy and the log have is the client's.
#[test]
fn a_rewritten_path_is_logged_as_the_client_sent_it() {
    let upstream = Upstream::bind();
    let gate = Setup::new().more(&route("/chat/{room}", "strip_prefix = \"/chat\"")).start(&upstream);
    Session::open_with(&gate, &upstream, &Request::to("/chat/blue"), &[]).close();
    assert_eq!(gate.log.next("session ended")["path"], "/chat/blue");
}

#[test]
fn rewrites_combine_with_upstream_host_and_title_case_headers() {
    let upstream = Upstream::bind();
    let gate = Setup::new()
        .upstream("title_case_headers = true\npath = \"/base\"")
        .more(&route(
            "/chat/{room}",
            "upstream_host = \"chat.internal:8080\"\nstrip_prefix = \"/chat\"\nremove_headers = [\"Cookie\"]\n\
             set_headers = { x-room-name = \"{room}\" }",
        ))
        .start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/chat/blue?a=b").with("Cookie: a=b").bytes());
    let text = upstream.accept().head_text();
    assert!(text.starts_with("GET /base/blue?a=b HTTP/1.1\r\n"), "{text}");
    for line in
        ["\r\nHost: chat.internal:8080\r\n", "\r\nX-Room-Name: blue\r\n", "\r\nX-Forwarded-Host: chat.example.com\r\n"]
    {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.to_lowercase().contains("cookie"), "{text}");
}
