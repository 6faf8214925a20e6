//! `tollgate completions`: prints the completion script of a shell.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::args::{Arguments, CompletionShell, Completions};
use super::print::print;

/// Prints the script. The exit code is 1 if it cannot be written.
pub fn run(completions: &Completions) -> ExitCode {
    print(&script(completions.shell))
}

fn script(shell: CompletionShell) -> Vec<u8> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    generate(shell, &mut command, name, &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_every_subcommand() {
        for shell in CompletionShell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for subcommand in Arguments::command().get_subcommands() {
                assert!(script.contains(subcommand.get_name()), "{shell:?}: {}", subcommand.get_name());
            }
        }
    }
}
