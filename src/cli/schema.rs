//! `tollgate schema`: prints the JSON Schema of the configuration file.

use std::process::ExitCode;

use super::print::print;
use crate::config::schema::schema;

/// Prints the schema. The exit code is 1 if it cannot be written.
pub fn run() -> ExitCode {
    print(format!("{:#}\n", schema()).as_bytes())
}
