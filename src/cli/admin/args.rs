//! The arguments of the subcommands that talk to a running process.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::cli::config_file::ConfigFile;

/// The running process to talk to, and the form of the output.
#[derive(Debug, Args)]
pub struct Connection {
    /// The address of the admin API: unix:PATH or HOST:PORT (default: the one in the configuration)
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// The path of the configuration.
    #[command(flatten)]
    pub file: ConfigFile,
    /// The file with the token for a TCP address (default: the one in the configuration)
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

/// The sessions to select: those that match every given field.
#[derive(Debug, Default, Args)]
#[group(id = "filter", multiple = true)]
pub struct FilterArguments {
    /// Only sessions of this route
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
    /// Only sessions whose client this auth section admitted
    #[arg(long, value_name = "NAME")]
    pub auth: Option<String>,
    /// Only sessions of this subject: of every auth section that has it, unless --auth is given
    #[arg(long, value_name = "TEXT")]
    pub subject: Option<String>,
    /// Only clients with this address, or in this network
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Only sessions of this upstream
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Only sessions of this server of an upstream
    #[arg(long, value_name = "ADDRESS")]
    pub server: Option<String>,
}

/// The sessions that a command changes.
#[derive(Debug, Args)]
pub struct Selection {
    /// The id of one session
    #[arg(value_name = "ID", conflicts_with = "filter")]
    pub id: Option<String>,
    /// The filter
    #[command(flatten)]
    pub filter: FilterArguments,
    /// All sessions; in a cluster whose `share` has "sessions", those of all nodes
    #[arg(long, conflicts_with_all = ["id", "filter"])]
    pub all: bool,
}

/// The arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// Print how to open the dashboard in a browser, and connect to nothing
    #[arg(long, conflicts_with = "cluster")]
    pub open: bool,
    /// List the nodes of the cluster
    #[arg(long)]
    pub cluster: bool,
}

/// The arguments of `sessions`.
#[derive(Debug, Args)]
pub struct Sessions {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The filter
    #[command(flatten)]
    pub filter: FilterArguments,
    /// List the sessions of all nodes of the cluster
    #[arg(long)]
    pub cluster: bool,
    /// Repeat the list every 2 seconds
    #[arg(long)]
    pub watch: bool,
    /// The order: age, messages, bytes or id; -age and so on reverse it
    #[arg(long, value_name = "KEY", default_value = "age", allow_hyphen_values = true)]
    pub sort: String,
    /// The largest number of sessions to print
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
}

/// The arguments of `kick`.
#[derive(Debug, Args)]
pub struct Kick {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The sessions
    #[command(flatten)]
    pub selection: Selection,
    /// The close code: 1000, 1001, 1008, 1011, 1012, 1013, or from 3000 to 4999
    #[arg(long, value_name = "CODE", default_value_t = 1008)]
    pub code: u16,
    /// The close reason, at most 123 bytes
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Spread the closes over this time, such as 10s
    #[arg(long, value_name = "TIME", conflicts_with = "id")]
    pub spread: Option<String>,
}

/// The arguments of `send`.
#[derive(Debug, Args)]
pub struct Send {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The sessions
    #[command(flatten)]
    pub selection: Selection,
    /// A text message
    #[arg(long, value_name = "TEXT", required_unless_present = "binary_file", conflicts_with = "binary_file")]
    pub text: Option<String>,
    /// The file with a binary message, at most 1 MiB
    #[arg(long, value_name = "FILE")]
    pub binary_file: Option<PathBuf>,
}

/// The arguments of `revoke`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("action").required(true).args(["subject", "jti", "sid", "list", "remove"]))]
pub struct Revoke {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The auth section of the tokens; required with --subject, else any
    #[arg(long, value_name = "NAME")]
    pub auth: Option<String>,
    /// Revoke the tokens of this subject of the section --auth; the same subject of another section stays valid
    #[arg(long, value_name = "TEXT", requires = "auth")]
    pub subject: Option<String>,
    /// Revoke the token with this id (claim "jti")
    #[arg(long, value_name = "TEXT")]
    pub jti: Option<String>,
    /// Revoke the tokens of this session at the issuer (claim "sid")
    #[arg(long, value_name = "TEXT")]
    pub sid: Option<String>,
    /// Only tokens that were issued before this time: seconds since 1970, or "now"
    #[arg(long, value_name = "TIME", conflicts_with_all = ["list", "remove"])]
    pub issued_before: Option<String>,
    /// When the revocation ends: seconds since 1970 (default: with the tokens, see `revocation_retention`)
    #[arg(long, value_name = "TIME", conflicts_with_all = ["list", "remove"])]
    pub expires: Option<f64>,
    /// A note, which --list shows
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["list", "remove"])]
    pub reason: Option<String>,
    /// List the revocations
    #[arg(long, conflicts_with = "auth")]
    pub list: bool,
    /// Remove the revocation with this id, so that its tokens are valid again
    #[arg(long, value_name = "ID", conflicts_with = "auth")]
    pub remove: Option<String>,
}

/// The arguments of `upstreams`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Upstreams {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The change; without one the upstreams are listed
    #[command(subcommand)]
    pub change: Option<UpstreamsChange>,
}

/// The changes of `upstreams`.
#[derive(Debug, Subcommand)]
pub enum UpstreamsChange {
    /// Give a server no new sessions, and close the open ones with 1012 at `drain_rate`
    Drain(ServerArguments),
    /// Give a server new sessions again, even if the configuration drains it, and close no more of the open ones
    Undrain(ServerArguments),
}

/// The server that a command changes.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The name of the upstream
    #[arg(value_name = "NAME")]
    pub upstream: String,
    /// The address of the server, as the configuration has it
    #[arg(value_name = "SERVER")]
    pub server: String,
}

/// The arguments of `tap`.
#[derive(Debug, Args)]
pub struct Tap {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The id of the session
    #[arg(value_name = "ID")]
    pub id: String,
    /// Show the payloads, if the configuration allows it
    #[arg(long)]
    pub payload: bool,
}

/// The arguments of `upgrade`.
#[derive(Debug, Args)]
pub struct Upgrade {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// The program that replaces the running one (default: the path from which the process was started)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath)]
    pub binary: Option<PathBuf>,
}

/// The arguments of `reload`.
#[derive(Debug, Args)]
pub struct Reload {
    /// The process
    #[command(flatten)]
    pub connection: Connection,
    /// Only report the effect of a reload
    #[arg(long)]
    pub dry_run: bool,
    /// Reload even if more of the open sessions end than `recheck_max` allows
    #[arg(long)]
    pub force: bool,
}
