//! The process: arguments, subcommand, exit code.
//!
//! Exit codes: 0 done, 1 failed while running, 64 bad arguments, 78 bad configuration.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;
use tollgate::cli::args::{self, Command};
use tollgate::cli::{admin, check, completions, demo, man, run, schema, token};

/// jemalloc returns the memory of ended and hibernating sessions to the system. glibc's allocator does not: a few live
/// bytes keep whole pages allocated. A feature of the crate makes jemalloc the allocator of the linked C code, too: the
/// state of the ciphers is a third of the memory of a session.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match args::parse() {
        Ok(arguments) => match arguments.command {
            Command::Run(file) => run::run(&file.config),
            Command::Check(check) => check::run(&check),
            Command::Demo(demo) => demo::run(&demo),
            Command::Token(token) => token::run(&token),
            Command::Status(status) => admin::status::run(&status),
            Command::Sessions(sessions) => admin::sessions::run(&sessions),
            Command::Kick(kick) => admin::kick::run(&kick),
            Command::Send(send) => admin::send::run(&send),
            Command::Revoke(revoke) => admin::revoke::run(&revoke),
            Command::Upstreams(upstreams) => admin::upstreams::run(&upstreams),
            Command::Tap(tap) => admin::tap::run(&tap),
            Command::Reload(reload) => admin::reload::run(&reload),
            Command::Upgrade(upgrade) => admin::upgrade::run(&upgrade),
            Command::Schema => schema::run(),
            Command::Man(pages) => man::run(&pages),
            Command::Completions(completions) => completions::run(&completions),
        },
        Err(code) => code,
    }
}
