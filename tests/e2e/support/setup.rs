//! The configuration of the proxy under test, assembled from small parts.

use std::fmt::{Display, Write as _};
use std::os::fd::OwnedFd;

use super::gate::Gate;
use super::pki::{AUDIENCE, ISSUER, Leaf};
use super::upstream::Upstream;

/// The configuration and the environment of a proxy. Each string holds lines of TOML for one section; a key set there
/// replaces the default below. There are two routes: `/open/{*rest}`, and `/room/{room}` for tokens of that room.
#[derive(Default)]
pub struct Setup {
    pub server: String,
    pub log: String,
    pub listener: String,
    pub auth: String,
    pub upstream: String,
    pub route: String,
    pub limits: String,
    /// Limits of the second route only.
    pub room_limits: String,
    /// Further sections.
    pub more: String,
    pub servers: Vec<String>,
    pub leaves: Vec<Leaf>,
    /// Files beside the configuration.
    pub files: Vec<(&'static str, String)>,
    pub environment: Vec<(&'static str, String)>,
    /// A shell command to run before the binary, such as one that sets a limit.
    pub before: Option<&'static str>,
    /// The standard input of the shell that runs `before`.
    pub input: Option<OwnedFd>,
    /// The log is read up to a line that contains this text, and then closed unless `log_stays_open` is set.
    pub log_until: Option<&'static str>,
    pub log_stays_open: bool,
}

/// Defines a method for each section that appends lines to it.
macro_rules! pieces {
    ($($section:ident)*) => {
        $(pub fn $section(self, lines: &str) -> Self {
            Self { $section: format!("{}{lines}\n", self.$section), ..self }
        })*
    };
}

impl Setup {
    pub fn new() -> Self {
        Self::default()
    }

    pieces! { server log listener auth upstream route limits room_limits more }

    /// Adds a server to the upstream, in the notation of the configuration.
    pub fn to(mut self, server: impl Display) -> Self {
        self.servers.push(server.to_string());
        self
    }

    pub fn certificate(mut self, leaf: Leaf) -> Self {
        self.leaves.push(leaf);
        self
    }

    /// Adds a file beside the configuration.
    pub fn file(mut self, name: &'static str, text: &str) -> Self {
        self.files.push((name, text.to_owned()));
        self
    }

    pub fn environment(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub fn before(self, command: &'static str) -> Self {
        Self { before: Some(command), ..self }
    }

    /// Passes a descriptor under this name as systemd does, with further names for copies of it.
    pub fn inherit(self, descriptor: impl Into<OwnedFd>, names: &str) -> Self {
        let setup = Self { input: Some(descriptor.into()), ..self };
        let count = names.split(':').count().to_string();
        // The shell has the process id of the binary. Descriptors that are passed begin at 3.
        let before = "exec 3<&0 4<&0 </dev/null; export LISTEN_PID=$$";
        setup.environment("LISTEN_FDS", &count).environment("LISTEN_FDNAMES", names).before(before)
    }

    /// Closes the log after a line that contains this text.
    pub fn log_until(self, text: &'static str) -> Self {
        Self { log_until: Some(text), ..self }
    }

    /// Stops reading the log after a line that contains this text, but leaves it open.
    pub fn log_stuck_after(self, text: &'static str) -> Self {
        Self { log_until: Some(text), log_stays_open: true, ..self }
    }

    /// Starts the proxy in front of this upstream.
    pub fn start(self, upstream: &Upstream) -> Gate {
        Gate::start(self.to(upstream.address()))
    }

    /// Starts a proxy whose log lines begin with the level prefixes of the journal.
    pub fn start_in_journal(self, upstream: &Upstream) -> Gate {
        let mut gate = Gate::launch(self.to(upstream.address()));
        let line = gate.log.wait_for("listening", |line| line.contains("\"listening\""));
        gate.set_address(&serde_json::from_str(&line[3..]).unwrap());
        gate
    }

    /// Returns the text of the file. `certificates` is the value of the listener's key.
    pub fn toml(&self, certificates: &str) -> String {
        let mut text = String::new();
        let mut section = |title: &str, defaults: &[(&str, &str)], piece: &str| {
            let _ = writeln!(text, "{title}");
            for (key, value) in defaults {
                if !piece.lines().any(|line| line.split('=').next().is_some_and(|name| name.trim() == *key)) {
                    let _ = writeln!(text, "{key} = {value}");
                }
            }
            let _ = writeln!(text, "{piece}");
        };
        let sections = [("max_sessions", "32"), ("max_handshakes", "32"), ("workers", "2")];
        section("[server]", &sections, &self.server);
        section("[log]", &[("level", "\"debug\"")], &self.log);
        let listener = [("address", "\"127.0.0.1:0\""), ("certificates", certificates)];
        let has_none = ["tls = false", "acme = "].iter().any(|key| self.listener.contains(key));
        section("[[listener]]", if has_none { &listener[..1] } else { &listener }, &self.listener);
        let auth = [
            ("issuer", format!("{ISSUER:?}")),
            ("audience", format!("[{AUDIENCE:?}]")),
            ("algorithms", "[\"ES256\"]".to_owned()),
            ("public_key_file", "\"token.pem\"".to_owned()),
            ("leeway", "\"0s\"".to_owned()),
        ];
        // Keys that are fetched replace the file.
        let is_fetched = ["jwks_url", "discovery"].iter().any(|key| self.auth.contains(key));
        let auth = auth.iter().map(|(key, value)| (*key, value.as_str()));
        let auth: Vec<_> = auth.filter(|(key, _)| !is_fetched || *key != "public_key_file").collect();
        section("[auth.users]", &auth, &self.auth);
        let servers = format!("{:?}", self.servers);
        let listed = [("servers", servers.as_str())];
        let is_found = self.upstream.contains("discover = ");
        section("[upstream.main]", if is_found { &[] } else { &listed }, &self.upstream);
        let more = self.checked();
        let open =
            [("name", "\"open\""), ("path", "\"/open/{*rest}\""), ("upstream", "\"main\""), ("auth", "\"none\"")];
        section("[[route]]", &open, &self.route);
        // Longer than a test waits: the proxy must not wait for the timeout if both ends answer, or cannot.
        let limits = [("close_timeout", "\"1m\"")];
        section("[route.limits]", &limits, &self.limits);
        let room = [
            ("name", "\"room\""),
            ("path", "\"/room/{room}\""),
            ("upstream", "\"main\""),
            ("auth", "\"users\""),
            ("require", "{ room = \"{room}\" }"),
            ("forward_claims", "{ sub = \"X-User-Id\" }"),
        ];
        section("[[route]]", &room, &self.route);
        section("[route.limits]", &limits, &format!("{}{}", self.limits, self.room_limits));
        text + &more
    }

    /// Returns the further sections. Servers are not checked unless a test configures that: tests count the connections
    /// of the proxy.
    fn checked(&self) -> String {
        const HEALTH: &str = "[upstream.main.health]\n";
        let off = format!("{HEALTH}check = \"off\"\n");
        match self.more.contains(HEALTH) {
            true if self.more.contains("check = ") => self.more.clone(),
            true => self.more.replace(HEALTH, &off),
            false => format!("{}{off}", self.more),
        }
    }
}
