//! `tollgate send`: sends a message to the clients of sessions.

use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::args::Send;
use super::client::Client;
use super::failure::Failure;
use super::kick::{report, unreached};
use super::output;
use super::select::filter;

/// Sends the message, and prints the number of sessions. The exit code is 1 if the process or the other nodes of its cluster
/// cannot be reached, or no session has the given id.
pub fn run(arguments: &Send) -> ExitCode {
    output::finish("send", send(arguments))
}

fn send(arguments: &Send) -> Result<(), Failure> {
    let Send { connection, selection, text, binary_file } = arguments;
    let mut body = json!({ "filter": filter(selection)? });
    let client = Client::new(connection)?;
    if let Some(text) = text {
        body["text"] = text.as_str().into();
    }
    if let Some(path) = binary_file {
        let unreadable = |error| Failure::of_arguments(format!("cannot read {}: {error}", path.display()));
        body["binary"] = STANDARD.encode(std::fs::read(path).map_err(unreadable)?).into();
    }
    let answer = client.request(Method::POST, "/v1/sessions/send", Some(&body))?;
    let count = |name| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    if selection.id.is_some() && count("selected") == 0 && count("nodes") == 0 {
        unreached(&answer)?;
        return Err(Failure::new("no session has this id"));
    }
    report(connection.json, &answer, "sending to")
}
