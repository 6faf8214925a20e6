//! `tollgate check`: tells everything that is wrong with a configuration, and what is worth a look.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use super::args::Check;
use crate::config::{self, Checked, Config, Content, Disk, Files};
use crate::policy::route::Auth;
use crate::server::descriptors::check_descriptors;

/// The exit code for a configuration that cannot be used (`EX_CONFIG` of `sysexits.h`).
const EXIT_CONFIG: u8 = 78;

/// Reads the configuration in this file. Faults and warnings go to standard error, a summary to standard output. The
/// exit code is 0, or 78 if the configuration cannot be used.
pub fn run(arguments: &Check) -> ExitCode {
    let files = Outside { credentials: arguments.credentials.clone().or_else(|| Disk.credentials()) };
    let code = check(&arguments.file.config, &files, &mut io::stdout().lock(), &mut io::stderr().lock());
    // A reader that has gone away misses the text; the exit code still tells.
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The files of this machine, seen from outside the systemd unit: there the credentials may be elsewhere, or out of reach.
struct Outside {
    credentials: Option<PathBuf>,
}

impl Files for Outside {
    fn read(&self, path: &Path) -> io::Result<Content> {
        Disk.read(path)
    }
    fn credentials(&self) -> Option<PathBuf> {
        self.credentials.clone()
    }
    fn needs_credentials(&self) -> bool {
        false
    }
    fn now(&self) -> SystemTime {
        Disk.now()
    }
}

/// The same with other places to write to; gives the exit code.
fn check(path: &Path, files: &dyn Files, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    let Checked { config, report } = config::check(path, files);
    write!(err, "{report}")?;
    if report.has_errors() {
        return Ok(EXIT_CONFIG);
    }
    let Some(config) = config else {
        writeln!(out, "{}: ok, but for the credentials, which were not checked", path.display())?;
        return Ok(0);
    };
    say(path, &config, out, err)?;
    Ok(0)
}

/// Says what is worth a look in a configuration that can be used, and what it holds.
fn say(path: &Path, config: &Config, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
    // The limit of the service may be another one, so that this is no error.
    let descriptors = match check_descriptors(config) {
        Ok(fitting) if fitting.get() >= config.server.max_sessions.count => None,
        Ok(fitting) => Some(format!("max_sessions would be lowered to {fitting} by the limit of file descriptors")),
        Err(error) => Some(error.to_string()),
    };
    if let Some(descriptors) = descriptors {
        writeln!(
            err,
            "warning: {}: {descriptors} (this is the limit here; it may be another one for the service)",
            path.display()
        )?;
    }
    for route in config.routes.iter().filter(|route| matches!(route.auth, Auth::None)) {
        writeln!(
            err,
            "warning: {}: route \"{}\" is open to everybody: it has auth = \"none\"",
            path.display(),
            route.name
        )?;
    }
    write!(out, "{}", summary(path, config))
}

/// The line for a valid configuration: its file and the numbers of its sections.
fn summary(path: &Path, config: &Config) -> String {
    format!(
        "{}: ok ({}, {}, {})\n",
        path.display(),
        count(config.listeners.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.upstreams.len(), "upstream"),
    )
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_not_there() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(Path::new("/nonexistent/tollgate.toml"), &Disk, &mut out, &mut err).unwrap();
        assert_eq!((code, out.as_slice()), (78, b"".as_slice()));
        let err = String::from_utf8(err).unwrap();
        assert!(err.starts_with("error: /nonexistent/tollgate.toml: cannot read the configuration: "), "{err}");
    }

    /// Files in memory: a certificate, its key, and nothing else.
    struct InMemory(rcgen::CertifiedKey<rcgen::KeyPair>);

    impl Files for InMemory {
        fn read(&self, path: &Path) -> io::Result<Content> {
            let text = match path.to_str() {
                Some("cert.pem") => self.0.cert.pem(),
                Some("key.pem") => self.0.signing_key.serialize_pem(),
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            Ok(Content { bytes: text.into_bytes(), mode: 0o600 })
        }
        fn credentials(&self) -> Option<PathBuf> {
            None
        }
        fn now(&self) -> SystemTime {
            SystemTime::now()
        }
    }

    #[test]
    fn the_summary_counts_and_a_warning_names_what_is_open() {
        let files = InMemory(rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let text = r#"
            listener = [{ address = "[::1]:0", certificates = [{ chain = "cert.pem", key = "key.pem" }] }]
            upstream.a.servers = ["[::1]:9001"]
            route = [{ name = "open", path = "/", upstream = "a", auth = "none" }]
        "#;
        let (path, mut out, mut err) = (Path::new("tollgate.toml"), Vec::new(), Vec::new());
        let config = config::parse(text, path, Path::new(""), &files).unwrap();
        say(path, &config, &mut out, &mut err).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "tollgate.toml: ok (1 listener, 1 route, 1 upstream)\n");
        let open = "warning: tollgate.toml: route \"open\" is open to everybody: it has auth = \"none\"\n";
        assert!(String::from_utf8(err).unwrap().ends_with(open));
    }

    #[test]
    fn counts() {
        assert_eq!([count(0, "route"), count(1, "route"), count(2, "route")], ["0 routes", "1 route", "2 routes"]);
    }
}
