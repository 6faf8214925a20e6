//! The argument that names the configuration, which most subcommands have.

use std::path::PathBuf;

use clap::Args;

/// The path of the configuration.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/tollgate/tollgate.toml")]
    pub config: PathBuf,
}
