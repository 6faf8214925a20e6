//! `tollgate status --cluster`: lists the nodes of the cluster.

use http::Method;
use serde_json::Value;

use super::args::Connection;
use super::client::Client;
use super::failure::Failure;
use super::output::{self, Column, number, text};

const COLUMNS: [Column; 9] = [
    Column { title: "", is_number: false },
    Column { title: "NODE", is_number: false },
    Column { title: "NAME", is_number: false },
    Column { title: "ADDRESS", is_number: false },
    Column { title: "VERSION", is_number: false },
    Column { title: "CONFIG", is_number: false },
    Column { title: "GENERATION", is_number: true },
    Column { title: "SESSIONS", is_number: true },
    Column { title: "SILENT", is_number: true },
];

/// Prints the nodes.
pub(super) fn show(connection: &Connection) -> Result<(), Failure> {
    let answer = Client::new(connection)?.request(Method::GET, "/v1/nodes", None)?;
    if connection.json { output::print_json(&answer) } else { output::print(&list(&answer)?) }
}

/// Returns a table with a line for each node, and whether the server answers.
///
/// # Errors
/// If the process is in no cluster.
fn list(answer: &Value) -> Result<String, Failure> {
    let Some(is_up) = answer.get("server_answers").and_then(Value::as_bool) else {
        return Err(Failure::new("this process is in no cluster: its configuration has no [cluster] section"));
    };
    let nodes = answer.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
    let own = nodes.iter().find(|node| is_this(node)).map(|node| text(node, "config"));
    let rows: Vec<Vec<String>> = nodes.iter().map(|node| row(node, own.as_deref())).collect();
    let age = match answer.get("age_seconds").and_then(Value::as_f64) {
        Some(age) => format!("as of {} ago", output::span(age)),
        None => "never read".to_owned(),
    };
    let state = match answer.get("server_error").and_then(Value::as_str) {
        _ if is_up => "answers".to_owned(),
        Some(error) => format!("answers with an error: `on_outage` applies ({})", output::escape(error)),
        None => "does not answer: `on_outage` applies".to_owned(),
    };
    Ok(format!("{}The server {state}. List of nodes {age}.\n", output::table(&COLUMNS, &rows)))
}

fn row(node: &Value, own: Option<&str>) -> Vec<String> {
    let differs = own.is_some_and(|own| text(node, "config") != own);
    let mut row = vec![if is_this(node) { "*" } else { "" }.to_owned()];
    row.extend(["id", "name", "address", "version"].map(|name| text(node, name)));
    let other_secret = node.get("same_secret").and_then(Value::as_bool) == Some(false);
    let marks = [(differs, " (differs)"), (other_secret, " (secret_file differs)")];
    let marks: String = marks.into_iter().filter_map(|(is_so, mark)| is_so.then_some(mark)).collect();
    row.push(format!("{}{marks}", text(node, "config")));
    row.extend(["generation", "sessions"].map(|name| text(node, name)));
    row.push(output::span(number(node, "silent_seconds")));
    row
}

fn is_this(node: &Value) -> bool {
    node.get("this").and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_have_a_line_each() {
        let node = |id: &str, this: bool, config: &str| {
            json!({ "id": id, "this": this, "name": "host", "address": "0.0.0.0:443", "version": "1", "config": config,
                "generation": 2, "sessions": 30, "silent_seconds": 1.5 })
        };
        let nodes = [node("1-a", true, "aa"), node("2-b", false, "bb")];
        let got = list(&json!({ "server_answers": true, "age_seconds": 3.0, "nodes": nodes })).unwrap();
        let lines: Vec<Vec<&str>> = got.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["*", "1-a", "host", "0.0.0.0:443", "1", "aa", "2", "30", "1.5s"]);
        assert_eq!(lines[2], ["2-b", "host", "0.0.0.0:443", "1", "bb", "(differs)", "2", "30", "1.5s"]);
        let mut other = node("2-b", false, "aa");
        other["same_secret"] = false.into();
        let got_secret =
            list(&json!({ "server_answers": true, "age_seconds": 3.0, "nodes": [nodes[0], other] })).unwrap();
        assert!(got_secret.contains(" aa (secret_file differs) "), "{got_secret}");
        assert!(got.ends_with("The server answers. List of nodes as of 3.0s ago.\n"), "{got}");
        assert!(list(&json!({ "server_answers": null, "nodes": [] })).unwrap_err().message.contains("no cluster"));
        let away = list(&json!({ "server_answers": false, "nodes": [] })).unwrap();
        assert!(
            away.ends_with("The server does not answer: `on_outage` applies. List of nodes never read.\n"),
            "{away}"
        );
        let refused = list(&json!({ "server_answers": false, "server_error": "OOM: full", "nodes": [] })).unwrap();
        assert!(refused.contains("The server answers with an error: `on_outage` applies (OOM: full)."), "{refused}");
    }
}
