//! The configuration of a gate, from small pieces.

use std::fmt::{Display, Write as _};

use super::gate::Gate;
use super::pki::{AUDIENCE, ISSUER, Leaf};
use super::upstream::Upstream;

/// What a gate is started with. The pieces are lines of TOML for their sections; a key that a piece sets replaces the
/// default below. There are two routes: `/open/{*rest}`, and `/room/{room}` for tokens of that room.
#[derive(Default)]
pub struct Setup {
    pub server: String,
    pub log: String,
    pub listener: String,
    pub auth: String,
    pub upstream: String,
    pub route: String,
    pub limits: String,
    /// The limits of the second route alone.
    pub room_limits: String,
    /// Further sections.
    pub more: String,
    pub servers: Vec<String>,
    pub leaves: Vec<Leaf>,
    pub environment: Vec<(&'static str, String)>,
    /// A shell command that is run before, such as one that sets a limit.
    pub before: Option<&'static str>,
    /// The log is read until a line has this in it, and then closed.
    pub log_until: Option<&'static str>,
    pub log_stays_open: bool,
}

/// A method for each section that sets its piece.
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

    /// With this server, as the configuration has it.
    pub fn to(mut self, server: impl Display) -> Self {
        self.servers.push(server.to_string());
        self
    }

    pub fn certificate(mut self, leaf: Leaf) -> Self {
        self.leaves.push(leaf);
        self
    }

    pub fn environment(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub fn before(self, command: &'static str) -> Self {
        Self { before: Some(command), ..self }
    }

    /// The log is read up to a line with this text, and then closed.
    pub fn log_until(self, text: &'static str) -> Self {
        Self { log_until: Some(text), ..self }
    }

    /// The log is read up to a line with this text, and then nobody reads it, but it stays open.
    pub fn log_stuck_after(self, text: &'static str) -> Self {
        Self { log_until: Some(text), log_stays_open: true, ..self }
    }

    /// Starts it in front of this upstream.
    pub fn start(self, upstream: &Upstream) -> Gate {
        Gate::start(self.to(upstream.address()))
    }

    /// The same for a gate whose log lines begin with the journal's levels.
    pub fn start_in_journal(self, upstream: &Upstream) -> Gate {
        let mut gate = Gate::launch(self.to(upstream.address()));
        let line = gate.log.wait_for("listening", |line| line.contains("\"listening\""));
        gate.set_address(&serde_json::from_str(&line[3..]).unwrap());
        gate
    }

    /// The file. `certificates` is the value of the listener's key.
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
        section("[[listener]]", &[("address", "\"127.0.0.1:0\""), ("certificates", certificates)], &self.listener);
        let auth = [
            ("issuer", format!("{ISSUER:?}")),
            ("audience", format!("[{AUDIENCE:?}]")),
            ("algorithms", "[\"ES256\"]".to_owned()),
            ("public_key_file", "\"token.pem\"".to_owned()),
            ("leeway", "\"0s\"".to_owned()),
        ];
        section("[auth.users]", &auth.each_ref().map(|(key, value)| (*key, value.as_str())), &self.auth);
        section("[upstream.main]", &[("servers", &format!("{:?}", self.servers))], &self.upstream);
        let open =
            [("name", "\"open\""), ("path", "\"/open/{*rest}\""), ("upstream", "\"main\""), ("auth", "\"none\"")];
        section("[[route]]", &open, &self.route);
        // Longer than a test waits: where both ends do their part, or cannot, the gate does not wait for it either.
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
        text + &self.more
    }
}
