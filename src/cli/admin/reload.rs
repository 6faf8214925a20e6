//! `tollgate reload`: makes the process read its configuration again.

use std::fmt::Write as _;
use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use super::args::Reload;
use super::client::Client;
use super::failure::Failure;
use super::output::{self, text};

/// Reloads, and prints the effect. The exit code is 78 if the configuration is invalid, and 1 if the process cannot be
/// reached, or the reload would end too many sessions.
pub fn run(arguments: &Reload) -> ExitCode {
    output::finish("reload", reload(arguments))
}

fn reload(arguments: &Reload) -> Result<(), Failure> {
    let Reload { connection, dry_run, force } = arguments;
    let target = format!("/v1/reload?dry_run={dry_run}&force={force}");
    let answer = Client::new(connection)?.request(Method::POST, &target, None)?;
    if connection.json { output::print_json(&answer) } else { output::print(&summary(&answer, *dry_run)) }
}

fn summary(answer: &Value, dry_run: bool) -> String {
    let generation = text(answer, "generation");
    let mut summary = if dry_run {
        format!("dry run: nothing was changed, generation {generation} stays in use\n")
    } else {
        format!("generation {generation} is in use\n")
    };
    let ended = answer.get("ended").and_then(Value::as_object);
    let causes = ended.into_iter().flatten().map(|(cause, count)| format!("{count} {cause}")).collect::<Vec<_>>();
    let total: u64 = ended.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
    // A string accepts everything.
    let _ = writeln!(
        summary,
        "sessions: {} keep their terms, {} get new limits, {total} end{causes}",
        text(answer, "kept"),
        text(answer, "changed"),
    );
    let exceeded = answer.get("exceeds_recheck_max_percent").and_then(Value::as_u64);
    if let Some(percent) = exceeded.filter(|_| dry_run) {
        let _ = writeln!(summary, "this is more than recheck_max = {percent}%: only --force permits it");
    }
    for (name, title) in
        [("listeners_added", "new listener"), ("listeners_removed", "listener closed"), ("warnings", "warning")]
    {
        for item in answer.get(name).and_then(Value::as_array).into_iter().flatten() {
            let _ = writeln!(summary, "{title}: {}", output::escape(item.as_str().unwrap_or_default()));
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_summary_has_every_effect() {
        let answer = json!({
            "applied": true, "generation": 3, "kept": 7, "changed": 1, "ended": { "no_route": 2, "origin": 1 },
            "exceeds_recheck_max_percent": 20,
            "warnings": ["a"], "listeners_added": ["127.0.0.1:1"], "listeners_removed": []
        });
        let expected = "generation 3 is in use\n\
            sessions: 7 keep their terms, 1 get new limits, 3 end (2 no_route, 1 origin)\n\
            new listener: 127.0.0.1:1\nwarning: a\n";
        assert_eq!(summary(&answer, false), expected);
        let dry = summary(&answer, true);
        assert!(dry.starts_with("dry run: nothing was changed"));
        assert!(dry.contains("this is more than recheck_max = 20%: only --force permits it\n"), "{dry}");
    }
}
