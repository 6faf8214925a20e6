//! `tollgate kick`: closes sessions.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::args::{FilterArguments, Kick};
use super::client::Client;
use super::failure::Failure;
use super::output;
use super::select::{filter, percent, query};

/// Closes the sessions, and prints their number. The exit code is 1 if the process or the other nodes of its cluster cannot
/// be reached, or no session has the given id.
pub fn run(arguments: &Kick) -> ExitCode {
    output::finish("kick", kick(arguments))
}

fn kick(arguments: &Kick) -> Result<(), Failure> {
    let Kick { connection, selection, code, reason, spread } = arguments;
    let filter = filter(selection)?;
    let client = Client::new(connection)?;
    let answer = if let Some(id) = &selection.id {
        let mut parameters = vec![("code", code.to_string())];
        parameters.extend(reason.clone().map(|reason| ("reason", reason)));
        let target = format!("/v1/sessions/{}{}", percent(id), query(&FilterArguments::default(), &parameters));
        client.request(Method::DELETE, &target, None)?;
        json!({ "selected": 1 })
    } else {
        let body = json!({ "filter": filter, "code": code, "reason": reason, "spread": spread });
        client.request(Method::POST, "/v1/sessions/close", Some(&body))?
    };
    report(connection.json, &answer, "closing")
}

/// Prints the number of sessions that a change was sent to. It is a failure if the other nodes of a cluster do not get it.
pub(super) fn report(is_json: bool, answer: &Value, what: &str) -> Result<(), Failure> {
    if is_json {
        output::print_json(answer)?;
    } else {
        output::print(&format!("{what} {}\n", sessions(answer)))?;
    }
    unreached(answer)
}

/// # Errors
/// If the other nodes were not reached.
pub(super) fn unreached(answer: &Value) -> Result<(), Failure> {
    let reason = answer.get("unreached").and_then(Value::as_str);
    reason.map_or(Ok(()), |reason| Err(Failure::new(format!("the other nodes were not reached: {reason}"))))
}

/// Returns the number of sessions of this node, and the number of other nodes, which may have none that match.
fn sessions(answer: &Value) -> String {
    let count = |name| answer.get(name).and_then(Value::as_u64);
    let plural = |count| if count == 1 { "" } else { "s" };
    let selected = count("selected").unwrap_or_default();
    let own = format!("{selected} session{}", plural(selected));
    match count("nodes") {
        None if answer.get("unreached").is_some_and(Value::is_string) => format!("{own} of this node"),
        None => own,
        Some(nodes) => format!("{own} of this node, and any that match at {nodes} other node{}", plural(nodes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_nodes_are_counted() {
        assert_eq!(sessions(&json!({ "selected": 1, "nodes": null })), "1 session");
        assert_eq!(
            sessions(&json!({ "selected": 2, "nodes": 1 })),
            "2 sessions of this node, and any that match at 1 other node"
        );
        assert_eq!(
            sessions(&json!({ "selected": 0, "nodes": 2 })),
            "0 sessions of this node, and any that match at 2 other nodes"
        );
        assert_eq!(sessions(&json!({ "selected": 1, "unreached": "it is away" })), "1 session of this node");
    }

    #[test]
    fn nodes_that_were_not_reached_are_a_failure() {
        assert_eq!(unreached(&json!({ "selected": 1 })), Ok(()));
        assert_eq!(unreached(&json!({ "selected": 1, "nodes": 2 })), Ok(()));
        let failure = Failure::new("the other nodes were not reached: it is away");
        assert_eq!(unreached(&json!({ "selected": 1, "unreached": "it is away" })), Err(failure));
    }
}
