//! Prints the result of a subcommand.

use std::io::{self, Write};
use std::process::ExitCode;

/// Writes the result to standard output. The exit code is 1 if it cannot be written, for instance because the pipe is
/// closed.
pub fn print(result: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(result).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
