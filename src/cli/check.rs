//! `tollgate check`: reports every error and warning in a configuration.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use super::args::Check;
use super::check_online;
use crate::config::{self, Checked, Config, Content, Disk, Files};
use crate::server::descriptors::check_descriptors;
use crate::server::revocations;

/// The exit code for a configuration that cannot be used (`EX_CONFIG` of `sysexits.h`).
const EXIT_CONFIG: u8 = 78;
/// The exit code if a key set or an ACME directory cannot be fetched, a service gives no decision, or a server completes no
/// TLS handshake.
const EXIT_FAILED: u8 = 1;

/// Checks the configuration in a file. Errors and warnings go to standard error, a summary to standard output. The exit
/// code is 0, 78 if the configuration cannot be used, or 1 if a check of `--online` fails or the output cannot be
/// written.
pub fn run(arguments: &Check) -> ExitCode {
    let files = Outside { credentials: arguments.credentials.clone().or_else(|| Disk.credentials()) };
    let (path, online) = (&arguments.file.config, arguments.online);
    let code = check(path, &files, online, &mut io::stdout().lock(), &mut io::stderr().lock());
    // If the output cannot be written, for instance because the pipe is closed, the exit code still reports a failure.
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The file system as seen outside the systemd unit, where the credentials may be in another directory or unavailable.
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
    fn state_directory(&self) -> Option<PathBuf> {
        Disk.state_directory()
    }
    fn check_state_directory(&self, path: &Path) -> io::Result<()> {
        revocations::inspect(path)
    }
}

/// Checks the configuration in a file, writes to `out` and `err`, and returns the exit code.
fn check(path: &Path, files: &dyn Files, online: bool, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    let Checked { config, report } = config::check(path, files);
    write!(err, "{report}")?;
    if report.has_errors() {
        return Ok(EXIT_CONFIG);
    }
    let Some(config) = config else {
        if online {
            let text = "--online needs the credentials of the unit: set --credentials";
            writeln!(err, "error: {}: {text}", path.display())?;
            return Ok(EXIT_FAILED);
        }
        writeln!(out, "{}: ok, except for the credentials, which were not checked", path.display())?;
        return Ok(0);
    };
    write_warnings(path, &config, err)?;
    if online && !check_online::run(path, &config, out, err)? {
        return Ok(EXIT_FAILED);
    }
    write!(out, "{}", summary(path, &config))?;
    Ok(0)
}

/// Writes warnings about a usable configuration.
fn write_warnings(path: &Path, config: &Config, err: &mut impl Write) -> io::Result<()> {
    // The service may run under another limit, so this is not an error.
    let descriptors = match check_descriptors(config) {
        Ok(fitting) if fitting.get() >= config.server.max_sessions.count => None,
        Ok(fitting) => Some(format!(
            "max_sessions would be lowered to {fitting} by the limit of file descriptors, LimitNOFILE= of the unit"
        )),
        Err(error) => Some(error.to_string()),
    };
    if let Some(descriptors) = descriptors {
        writeln!(
            err,
            "warning: {}: {descriptors} (this is the limit here; the service may have another one)",
            path.display()
        )?;
    }
    if config.can_revoke() && config.server.state_dir.is_none() {
        let text = "revocations end with the process: set state_dir, or StateDirectory= in the systemd unit";
        writeln!(err, "note: {}: {text}", path.display())?;
    }
    for route in config.routes.iter().filter(|route| route.auth.is_empty()) {
        writeln!(
            err,
            "warning: {}: route \"{}\" is open to every client: it has auth = \"none\"",
            path.display(),
            route.name
        )?;
    }
    Ok(())
}

/// Returns the summary of a valid configuration: its path and the numbers of its sections.
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
    use crate::config::tests::InMemory;

    #[test]
    fn a_missing_file_cannot_be_used() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(Path::new("/nonexistent/tollgate.toml"), &Disk, false, &mut out, &mut err).unwrap();
        assert_eq!((code, out.as_slice()), (78, b"".as_slice()));
        let err = String::from_utf8(err).unwrap();
        assert!(err.starts_with("error: /nonexistent/tollgate.toml: cannot read the configuration: "), "{err}");
    }

    #[test]
    fn a_state_dir_that_cannot_be_used_is_an_error_at_its_place() {
        let folder = std::env::temp_dir().join(format!("tollgate-check-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("state")).unwrap();
        std::fs::write(folder.join("file"), "").unwrap();
        let checked = |state_dir: &str| {
            let (text, path) = (format!("[server]\nstate_dir = \"{state_dir}\"\n"), folder.join("tollgate.toml"));
            std::fs::write(&path, text).unwrap();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let files = Outside { credentials: None };
            assert_eq!(check(&path, &files, false, &mut out, &mut err).unwrap(), 78, "there is no listener");
            String::from_utf8(err).unwrap()
        };
        let (missing, file, usable) = (checked("missing"), checked("file"), checked("state"));
        for (err, reason) in [(&missing, "No such file or directory"), (&file, "not a directory")] {
            assert!(err.contains("error: the directory of `state_dir` cannot be used"), "{err}");
            assert!(err.contains("tollgate.toml:2:13") && err.contains('^') && err.contains(reason), "{err}");
        }
        assert!(!usable.contains("state_dir"), "{usable}");
        assert!(!folder.join("missing").exists());
        assert_eq!(std::fs::read_dir(folder.join("state")).unwrap().count(), 0, "nothing is created");
        std::fs::write(folder.join("state/revocations"), "tollgate revocations 99\n").unwrap();
        assert!(checked("state").contains("another version of tollgate"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// The files of a user who must not write to any `state_dir`, in the unit or in a shell.
    struct OtherUser {
        is_unit: bool,
    }

    impl Files for OtherUser {
        fn read(&self, _: &Path) -> io::Result<Content> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn credentials(&self) -> Option<PathBuf> {
            None
        }
        fn needs_credentials(&self) -> bool {
            self.is_unit
        }
        fn now(&self) -> SystemTime {
            Disk.now()
        }
        fn check_state_directory(&self, _: &Path) -> io::Result<()> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    #[test]
    fn a_state_dir_of_another_user_is_an_error_only_in_the_unit() {
        let text = r#"
            server.state_dir = "/var/lib/tollgate"
            listener = [{ address = "127.0.0.1:0", tls = false }]
            upstream.a.servers = ["[::1]:9001"]
            route = [{ name = "open", path = "/", upstream = "a", auth = "none" }]
        "#;
        let path = std::env::temp_dir().join(format!("tollgate-check-user-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        for (is_unit, expected, severity) in [(true, 78, "error"), (false, 0, "warning")] {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let code = check(&path, &OtherUser { is_unit }, false, &mut out, &mut err).unwrap();
            let err = String::from_utf8(err).unwrap();
            let message = format!("{severity}: the directory of `state_dir` cannot be used");
            assert!(code == expected && err.contains(&message), "{code} {err}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_acme_without_a_state_dir_is_a_warning_at_its_place() {
        let text = r#"
            acme.ca = { directory = "https://acme.example/", accept_terms = true, ca = "system", domains = ["a.example"] }
            listener = [{ address = "[::1]:0", acme = "ca" }]
            upstream.a.servers = ["[::1]:9001"]
            route = [{ name = "open", path = "/", upstream = "a", auth = "none" }]
        "#;
        let path = std::env::temp_dir().join(format!("tollgate-check-acme-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&path, &OtherUser { is_unit: false }, false, &mut out, &mut err).unwrap();
        std::fs::remove_file(&path).unwrap();
        let err = String::from_utf8(err).unwrap();
        assert!(
            code == 0 && err.contains("warning: `acme` needs `state_dir`") && err.contains(".toml:3:"),
            "{code} {err}"
        );
    }

    #[test]
    fn the_summary_counts_sections_and_a_warning_names_open_routes() {
        let files = InMemory::new();
        let text = r#"
            listener = [{ address = "[::1]:0", certificates = [{ chain = "chain.pem", key = "key.pem" }] }]
            upstream.a.servers = ["[::1]:9001"]
            route = [{ name = "open", path = "/", upstream = "a", auth = "none" }]
        "#;
        let (path, mut err) = (Path::new("tollgate.toml"), Vec::new());
        let config = config::parse(text, path, Path::new(""), &files).unwrap();
        write_warnings(path, &config, &mut err).unwrap();
        assert_eq!(summary(path, &config), "tollgate.toml: ok (1 listener, 1 route, 1 upstream)\n");
        let open = "warning: tollgate.toml: route \"open\" is open to every client: it has auth = \"none\"\n";
        assert!(String::from_utf8(err).unwrap().ends_with(open));
    }

    #[test]
    fn counts() {
        assert_eq!([count(0, "route"), count(1, "route"), count(2, "route")], ["0 routes", "1 route", "2 routes"]);
    }
}
