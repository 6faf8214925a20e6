//! Creates the files that the test configurations name: certificates, keys and secrets, new for each run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// Creates a directory for one test.
pub fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("config-{}-{number}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// Returns the directory with every file that the configurations name, and creates it on the first call.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = new_folder();
        fill(&folder);
        folder
    })
}

/// Writes a file with this mode.
pub fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>, mode: u32) {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn fill(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let params = || CertificateParams::new(vec!["Chat.example.com".into(), "*.example.com".into()]).unwrap();
    let certificate = |params: CertificateParams| params.self_signed(&key).unwrap().pem();

    for name in ["cert.pem", "fullchain.pem"] {
        write(folder, name, certificate(params()), 0o644);
    }
    for name in ["key.pem", "privkey.pem"] {
        write(folder, name, key.serialize_pem(), 0o600);
    }
    let revoked = r#"[{"auth":"users","subject":"ada","issued_before":1800000000},{"jti":"t1","expires":2000000000}]"#;
    write(folder, "revoked.json", revoked, 0o644);
    write(folder, "revoked-elsewhere.json", r#"[{"auth":"nobody","subject":"ada"}]"#, 0o644);
    write(folder, "revoked-object.json", r#"{"jti":"t1"}"#, 0o644);
    write(folder, "revoked-entry.json", "[\n  {\"jti\": \"t1\"},\n  {\"subject\": \"ada\"}\n]\n", 0o644);
    write(folder, "eab.key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n", 0o600);
    write(folder, "sticky-secret", "0123456789abcdef0123456789abcdef\n", 0o600);
    write(folder, "redis-password", "a password of Redis\r\n", 0o600);
    write(folder, "cluster-secret", "the secret of the nodes, of 38 bytes..\n", 0o640);
    write(folder, "short-secret", "0123456789abcdef\n", 0o600);
    let servers = r#"["127.0.0.1:9001", {"address": "127.0.0.1:9002", "weight": 3, "drain": true}]"#;
    write(folder, "servers.json", servers, 0o644);
    write(folder, "servers-syntax.json", "[\n  \"127.0.0.1:9001\"\n  \"127.0.0.1:9002\"\n]\n", 0o644);
    write(folder, "servers-address.json", "[\n  \"127.0.0.1\"\n]\n", 0o644);
    write(folder, "servers-twice.json", "[\n  \"a:1\",\n  { \"address\": \"a:1\" }\n]\n", 0o644);
    write(folder, "group-key.pem", key.serialize_pem(), 0o640);
    write(folder, "open-key.pem", key.serialize_pem(), 0o644);
    write(folder, "other-key.pem", KeyPair::generate().unwrap().serialize_pem(), 0o600);

    let mut expired = params();
    expired.not_before = date_time_ymd(2000, 1, 1);
    expired.not_after = date_time_ymd(2001, 1, 1);
    write(folder, "expired.pem", certificate(expired), 0o644);
    let mut future = params();
    future.not_before = date_time_ymd(2999, 1, 1);
    future.not_after = date_time_ymd(2999, 12, 31);
    write(folder, "future.pem", certificate(future), 0o644);
    let mut year = params();
    year.not_before = date_time_ymd(2030, 1, 1);
    year.not_after = date_time_ymd(2031, 1, 1);
    write(folder, "year.pem", certificate(year), 0o644);
    write(folder, "no-name.pem", certificate(CertificateParams::new(Vec::new()).unwrap()), 0o644);
    write(folder, "ip.pem", certificate(CertificateParams::new(vec!["192.0.2.1".into()]).unwrap()), 0o644);
    write(folder, "roots.pem", certificate(params()).repeat(17), 0o644);
    write(folder, "empty.pem", "", 0o600);
    write(folder, "broken.pem", "-----BEGIN CERTIFICATE-----\n!SECRET!\n-----END CERTIFICATE-----\n", 0o600);
    write(folder, "garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    write(folder, "encrypted-key.pem", encrypted, 0o600);
    write(folder, "garbage-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600);
    write(folder, "large.pem", vec![b'\n'; (1 << 20) + 1], 0o600);

    all_kinds_of_keys(folder);

    write(folder, "admin-token", "an-admin-token-for-tests\n", 0o600);
    write(folder, "short", "0123456789abcde\n", 0o600);
    write(folder, "secret", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n", 0o600);
    write(folder, "upstream-token", "Bearer SECRET\n", 0o640);
    write(folder, "two-lines", "Bearer SECRET\nX-Evil: 1\n", 0o600);
    write(folder, "open-secret", "0123456789abcdef0123456789abcdef", 0o644);
    write(folder, "empty-secret", "", 0o600);
    write(folder, "public.pem", key.public_key_pem(), 0o644);
    write(folder, "jwks.json", key_set(&key), 0o644);
    write(folder, "not-jwks.json", "[]", 0o644);
}

/// Writes a certificate and a key of each supported kind, in each PEM format: `rsa.pem`, `rsa-key.pem` and so on.
fn all_kinds_of_keys(folder: &Path) {
    let kinds = [
        ("rsa", &rcgen::PKCS_RSA_SHA256),
        ("p256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("p384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("ed25519", &rcgen::PKCS_ED25519),
    ];
    for (kind, algorithm) in kinds {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(vec![format!("{kind}.example.com")]).unwrap();
        write(folder, &format!("{kind}.pem"), params.self_signed(&key).unwrap().pem(), 0o644);
        write(folder, &format!("{kind}-key.pem"), key.serialize_pem(), 0o600);
        let label = match kind {
            "rsa" => "RSA PRIVATE KEY",
            "ed25519" => continue,
            _ => "EC PRIVATE KEY",
        };
        let body = base64::engine::general_purpose::STANDARD.encode(inside_pkcs8(&key.serialize_der()));
        let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        write(folder, &format!("{kind}-old-key.pem"), pem, 0o600);
    }
}

/// Returns the key inside a PKCS#8 key: PKCS#1 for RSA, SEC1 for elliptic curves.
fn inside_pkcs8(der: &[u8]) -> Vec<u8> {
    use x509_cert::der::asn1::OctetStringRef;
    use x509_cert::der::{Decode, Reader, SliceReader};
    let mut reader = SliceReader::new(der).unwrap();
    let inside = reader.sequence(|reader| -> x509_cert::der::Result<Vec<u8>> {
        let _version = u8::decode(reader)?;
        let _algorithm = x509_cert::spki::AlgorithmIdentifierRef::decode(reader)?;
        let inside = <&OctetStringRef>::decode(reader)?.as_bytes().to_vec();
        while !reader.is_finished() {
            x509_cert::der::AnyRef::decode(reader)?;
        }
        Ok(inside)
    });
    inside.unwrap()
}

/// Returns the public key of a P-256 key pair as a JWK set.
fn key_set(key: &KeyPair) -> String {
    let raw = key.public_key_raw();
    let coordinate = |range| URL_SAFE_NO_PAD.encode(&raw[range]);
    let (x, y) = (coordinate(1..33), coordinate(33..65));
    format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"1","x":"{x}","y":"{y}"}}]}}"#)
}
