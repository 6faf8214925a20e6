//! The process: arguments, subcommand, exit code.
//!
//! Exit codes: 0 done, 1 failed while running, 64 bad arguments, 78 bad configuration.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;
use tollgate::cli::args::{self, Command};
use tollgate::cli::{check, demo, run, token};

/// What thousands of sessions took goes back to the system when they end, which it does not with glibc: there a few bytes
/// that live on keep whole pages, and so did the room that a hibernating session has given up. By a feature of the crate it
/// is the allocator of the linked C code, too: the ciphers' state is a third of what a session takes.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match args::parse() {
        Ok(arguments) => match arguments.command {
            Command::Run(file) => run::run(&file.config),
            Command::Check(check) => check::run(&check),
            Command::Demo(demo) => demo::run(&demo),
            Command::Token(token) => token::run(&token),
        },
        Err(code) => code,
    }
}
