//! The command-line arguments of each subcommand, and their parser.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::admin::args as admin;
use super::config_file::ConfigFile;

/// The exit code for invalid arguments (`EX_USAGE` of `sysexits.h`).
pub const EXIT_USAGE: u8 = 64;

/// A TLS-terminating WebSocket reverse proxy.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Arguments {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT; a second signal ends the drain at once
    Run(ConfigFile),
    /// Report every error and warning in a configuration
    Check(Check),
    /// Serve a self-contained demo, and print commands that connect to it
    Demo(Demo),
    /// Print a signed token for tests
    Token(Token),
    /// Show the version, configuration and load of a running process
    Status(admin::Status),
    /// List the open sessions of a running process
    Sessions(admin::Sessions),
    /// Close sessions, in a cluster also those of the other nodes
    Kick(admin::Kick),
    /// Send a message to the clients of sessions, in a cluster also those of the other nodes
    Send(admin::Send),
    /// Revoke tokens, and close the sessions that were admitted with them
    Revoke(admin::Revoke),
    /// List the upstreams and their servers, or drain a server
    Upstreams(admin::Upstreams),
    /// Show the frames of a session as they pass
    Tap(admin::Tap),
    /// Make a running process read its configuration again
    Reload(admin::Reload),
    /// Replace a running process by a new program, which continues its sessions
    Upgrade(admin::Upgrade),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Print the man page, or write the pages of all subcommands
    Man(ManPages),
    /// Print the completion script of a shell
    Completions(Completions),
}

/// The arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The path of the configuration.
    #[command(flatten)]
    pub file: ConfigFile,
    /// The directory with the files of `credential:NAME`, for a check outside the systemd unit
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub credentials: Option<PathBuf>,
    /// Also fetch every key set and every ACME directory and look up the servers of upstreams once, as `run` does, and do a
    /// TLS handshake with the servers of upstreams with `tls`
    #[arg(long)]
    pub online: bool,
}

/// The arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// The port on localhost; 0 for any free port
    #[arg(long, default_value_t = 8443)]
    pub port: u16,
    /// Print one line of JSON once it is ready, for scripts
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `token`.
#[derive(Debug, Args)]
pub struct Token {
    /// The private key in PEM (PKCS#8, PKCS#1 or SEC 1), or for HS256, HS384 and HS512 the file with the secret
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The algorithm, such as ES256, RS256, Ed25519 or HS256
    #[arg(long, value_name = "NAME", default_value = "ES256")]
    pub algorithm: String,
    /// The claim "sub"
    #[arg(long, value_name = "TEXT")]
    pub subject: Option<String>,
    /// The claim "iss"
    #[arg(long, value_name = "TEXT")]
    pub issuer: Option<String>,
    /// The claim "aud"
    #[arg(long, value_name = "TEXT")]
    pub audience: Option<String>,
    /// How long the token is valid, such as 30s, 15m or 8h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub expires: Duration,
    /// The key id, in the header parameter "kid"
    #[arg(long, value_name = "TEXT")]
    pub kid: Option<String>,
    /// An additional claim; a value that is JSON (a number, a list, an object) is used as JSON, any other value as text
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    pub claims: Vec<(String, serde_json::Value)>,
}

/// The arguments of `man`.
#[derive(Debug, Args)]
pub struct ManPages {
    /// Write one page for the program and one for each subcommand into this directory, and print nothing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
}

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: CompletionShell,
}

/// A shell for which there is a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    /// Bash.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
}

/// Reads the arguments of the process.
///
/// # Errors
/// Returns the exit code after it has printed the error, the help or the version.
pub fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        // The exit code reports the outcome even if the message cannot be printed.
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds_each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err("write a number and s, m, h or d, as in 15m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number before the unit, as in 15m".to_owned())?;
    number.checked_mul(seconds_each).map(Duration::from_secs).ok_or_else(|| "too long".to_owned())
}

fn claim(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_and_claims() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("2").is_err() && duration("h").is_err() && duration("99999999999999999999d").is_err());
        assert_eq!(claim("room=blue"), Ok(("room".to_owned(), "blue".into())));
        assert_eq!(claim("n=3"), Ok(("n".to_owned(), 3.into())));
        assert_eq!(claim(r#"roles=["a", 1]"#), Ok(("roles".to_owned(), serde_json::json!(["a", 1]))));
        assert_eq!(claim(r#"https://a/b={"c":"="}"#), Ok(("https://a/b".to_owned(), serde_json::json!({"c": "="}))));
        assert_eq!(claim("roles=[a"), Ok(("roles".to_owned(), "[a".into())));
        assert!(claim("room").is_err());
    }
}
