//! The process: arguments, subcommand, exit code.
//!
//! Exit codes: 0 done, 1 failed while running, 64 bad arguments, 78 bad configuration.

use std::process::ExitCode;

use tollgate::cli::args::{self, Command};
use tollgate::cli::{check, demo, run, token};

fn main() -> ExitCode {
    match args::parse() {
        Ok(arguments) => match arguments.command {
            Command::Run(file) => run::run(&file.config),
            Command::Check(file) => check::run(&file.config),
            Command::Demo(demo) => demo::run(&demo),
            Command::Token(token) => token::run(&token),
        },
        Err(code) => code,
    }
}
